// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/bpf/cover"
	"github.com/weirnet/weir/bpf/mutant"
)

// `weir mutate` asks tests of this package about errors in the programs of
// sockets, and in the collector's, which worlds of scenarios run only while nothing
// else happens. It names one by its ID in mutantVariable, and in reachVariable a
// directory for what a test reaches.
const (
	mutantVariable = "WEIR_TEST_MUTANT"
	reachVariable  = "WEIR_TEST_REACH"
)

// asAsked gives what changes the programs of a test as these variables ask; nil
// for nothing.
func asAsked(t testing.TB) func(*ebpf.CollectionSpec) error {
	t.Helper()
	if id := os.Getenv(mutantVariable); id != "" {
		return func(spec *ebpf.CollectionSpec) error { return plantIn(spec, id) }
	}
	dir := os.Getenv(reachVariable)
	if dir == "" {
		return nil
	}
	counters := cover.New()
	t.Cleanup(func() {
		entered := map[string][]int{}
		for _, o := range counters.Snapshot() {
			for _, p := range o.Programs {
				for n, c := range p.Counts {
					if c.Entered > 0 {
						entered[p.Name] = append(entered[p.Name], n)
					}
				}
			}
		}
		text, err := json.Marshal(entered)
		require.NoError(t, err)
		file, err := os.CreateTemp(dir, "reach-*.json")
		require.NoError(t, err)
		_, err = file.Write(text)
		require.NoError(t, err)
		require.NoError(t, file.Close())
		require.NoError(t, counters.Close())
	})
	return counters.Edit
}

// plantIn plants an error in the programs of sockets, or in the collector's.
func plantIn(spec *ebpf.CollectionSpec, id string) error {
	of := bpf.SocketProgConnect4
	if strings.HasPrefix(id, bpf.ContainerProgMarkExpired+"+") {
		of = bpf.ContainerProgMarkExpired
	}
	if spec.Programs[of] == nil {
		return nil
	}
	all, err := mutant.Enumerate(spec)
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.ID != id {
			continue
		}
		for _, p := range spec.Programs {
			if _, err := mutant.Apply(p, m); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("plant %s: there is no such mutant", id)
}

// noticing are the tests that notice one error of each kind in programs, at one of
// some lines of a source file.
type noticing struct {
	load     func() (*ebpf.CollectionSpec, error)
	file     string
	programs []string
	by       map[mutant.Kind]eye
	// nothing are kinds of which a program has only errors that the verifier takes
	// no program with, or that change nothing.
	nothing []mutant.Kind
}

// eye is a test, and lines at which it notices an error.
type eye struct {
	test  string
	lines []string
}

const (
	reaching  = "TestTheNodesSocketsReachServices"
	refusing  = "TestAServiceWithoutABackendRefusesAtOnce"
	podsAlone = "TestSocketsOfPodsAreLeftAlone"
	marking   = "TestAFlowThatWasTouchedIsNotMarked"
)

var noticed = map[string]noticing{
	"sockets that connect or send": {
		load: bpf.LoadSocket, file: "socket.bpf.c",
		programs: []string{bpf.SocketProgConnect4, bpf.SocketProgConnect6, bpf.SocketProgSendmsg4, bpf.SocketProgSendmsg6},
		by: map[mutant.Kind]eye{
			mutant.Round:     {reaching, []string{"if (!to.service) {"}},
			mutant.Always:    {refusing, []string{"if (set_retval)"}},
			mutant.Never:     {podsAlone, []string{"if (!pkt.key.proto || !in_node_netns(ctx))"}},
			mutant.Immediate: {refusing, []string{"pkt->src_identity = 1;"}},
			mutant.Store:     {reaching, []string{"ctx->user_port = port;"}},
			mutant.Call:      {reaching, []string{"reason = peer_select_backend(&pkt, service, connects ? NULL : &frontend, &to, ctl);"}},
			mutant.Arguments: {reaching, []string{"bpf_map_update_elem(&peers, &backend, &frontend, BPF_ANY);"}},
			mutant.Confused:  {refusing, []string{"pkt->src_identity = 1;"}},
		},
	},
	"sockets that are shown their peer": {
		load: bpf.LoadSocket, file: "socket.bpf.c",
		programs: []string{bpf.SocketProgRecvmsg4, bpf.SocketProgRecvmsg6, bpf.SocketProgGetpeername4, bpf.SocketProgGetpeername6},
		by: map[mutant.Kind]eye{
			mutant.Round:  {reaching, []string{"if (!in_node_netns(ctx))"}},
			mutant.Always: {reaching, []string{"if (!in_node_netns(ctx))"}},
			mutant.Store:  {reaching, []string{"ctx->user_port = port;"}},
			mutant.Call:   {reaching, []string{"key.socket = bpf_get_socket_cookie(ctx);"}},
		},
		nothing: []mutant.Kind{mutant.Never, mutant.Immediate},
	},
	"the collector": {
		load: bpf.LoadContainer, file: "container.bpf.c", programs: []string{bpf.ContainerProgMarkExpired},
		by: map[mutant.Kind]eye{
			mutant.Round:     {marking, []string{"if (flow && flow->last_seen == expired.last_seen) {"}},
			mutant.Always:    {marking, []string{"if (flow && flow->last_seen == expired.last_seen) {"}},
			mutant.Never:     {marking, []string{"if (flow && flow->last_seen == expired.last_seen) {"}},
			mutant.Bound:     {marking, []string{"for (i = 0; i < EXPIRED_BATCH; i++) {"}},
			mutant.Immediate: {marking, []string{"marked++;"}},
			mutant.Store:     {marking, []string{"flow->flags |= FLOW_DEAD;"}},
			mutant.Call:      {marking, []string{"flow = bpf_map_lookup_elem(&ct_answered, &expired.key);"}},
		},
		nothing: []mutant.Kind{mutant.Arguments},
	},
}

// One error of each kind that there is in a program is planted, and a test that
// passes without it fails with it.
func TestOneErrorOfEachKindInEachProgramIsNoticed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it loads BPF programs")
	}
	for name, n := range noticed {
		t.Run(name, func(t *testing.T) {
			spec, err := n.load()
			require.NoError(t, err)
			all, err := mutant.Enumerate(spec)
			require.NoError(t, err)
			sound := map[string]bool{}
			for _, by := range n.by {
				if !sound[by.test] {
					said, err := playAgain(by.test, "")
					require.NoErrorf(t, err, "%s", said)
				}
				sound[by.test] = true
			}
			noticed := n.askAll(t, all)
			for _, program := range n.programs {
				for _, kind := range mutant.Kinds() {
					n.require(t, all, noticed, program, kind)
				}
			}
		})
	}
}

func (n *noticing) has(m *mutant.Mutant, program string, kind mutant.Kind) bool {
	return m.File == n.file && m.Kind == kind && slices.Contains(m.Programs, program)
}

// require has one of the errors of a kind in a program be noticed.
func (n *noticing) require(t *testing.T, all []mutant.Mutant, noticed map[string]bool, program string, kind mutant.Kind) {
	t.Helper()
	there, found := 0, false
	for i := range all {
		if m := &all[i]; n.has(m, program, kind) {
			there++
			found = found || noticed[m.ID]
		}
	}
	if there > 0 && !slices.Contains(n.nothing, kind) {
		assert.Truef(t, found, "%s in %s, at one of %q", kind, program, n.by[kind].lines)
	}
}

// askAll plants each error of the lines by itself and gives those that a test
// notices.
func (n *noticing) askAll(t *testing.T, all []mutant.Mutant) map[string]bool {
	t.Helper()
	var mu sync.Mutex
	found := map[string]bool{}
	var g errgroup.Group
	g.SetLimit(4) // they wait for the kernel more than they work
	for i := range all {
		m := &all[i]
		isOf := func(program string) bool { return n.has(m, program, m.Kind) }
		if !slices.Contains(n.by[m.Kind].lines, m.Text) || !slices.ContainsFunc(n.programs, isOf) {
			continue
		}
		g.Go(func() error {
			said, err := playAgain(n.by[m.Kind].test, m.ID)
			mu.Lock()
			defer mu.Unlock()
			// One that the verifier does not take is none.
			found[m.ID] = err != nil && !strings.Contains(said, "load the programs of")
			return nil
		})
	}
	require.NoError(t, g.Wait())
	return found
}

// playAgain runs a test in a process of its own, with an error in the programs.
func playAgain(test, id string) (string, error) {
	again := exec.Command("/proc/self/exe", "-test.run", "^"+test+"$", "-test.count", "1")
	again.Env = append(os.Environ(), mutantVariable+"="+id)
	said, err := again.CombinedOutput()
	return string(said), err
}
