// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// pinDir mounts a bpffs for the test's thread only, and names a directory in it.
func pinDir(t testing.TB) string {
	t.Helper()
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNS))
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	dir := t.TempDir()
	require.NoError(t, unix.Mount("bpf", dir, "bpf", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return filepath.Join(dir, "weir")
}

func pinnedOptions(dir string) Options {
	return Options{PinPath: dir, Attach: true, Flows: 1024, Unanswered: 1024}
}

// strict is a state like newState's in which everything that a probe asks for
// is answered the other way round: the port that was open is closed, and the
// service has another backend.
func strict(client, web model.Device) *model.State {
	state := newState(client, web)
	state.Endpoints[1].RuleSet = "strict"
	state.RuleSets = append(state.RuleSets, model.RuleSet{Key: "strict", Rules: []model.Rule{
		{Direction: model.Egress},
		{Direction: model.Ingress, Peer: clientIdentity, Protocol: model.ProtocolTCP, Port: 22, PortBits: 16},
		{Direction: model.Ingress, Peer: clientIdentity, Protocol: model.ProtocolTCP, Port: 9090, PortBits: 16},
	}})
	state.Services.At(0).Backends = []model.Backend{{Address: addr("10.0.0.2"), Port: 9090}}
	state.Services.At(0).MaglevSize = 251
	state.Services.At(1).Backends = []model.Backend{{Address: addr("fd00::2"), Port: 9090}}
	state.Services.At(1).Sources = []netip.Prefix{prefix("fd00::2/128")}
	return state
}

// lenient adds to newState what strict lacks or has otherwise.
func lenient(t *testing.T, n *node) {
	t.Helper()
	withUplink(t, n)
	s := n.state.Services.At(0)
	s.Backends = append(s.Backends, model.Backend{Address: addr("10.0.0.2"), Port: 8081, Weight: 3})
	s.MaglevSize = 503
	n.state.Services.At(1).Sources = []netip.Prefix{prefix("fd00::/64")}
}

// askPrograms asks the attached programs, by their pinned links, what they make of
// new flows. It needs no loader.
func askPrograms(t *testing.T, dir string, n *node, sport uint16) []string {
	t.Helper()
	name := fmt.Sprintf(linkName, ebpf.AttachTCXIngress, n.client.Ifindex)
	l, err := link.LoadPinnedLink(filepath.Join(dir, "links", name), nil)
	require.NoError(t, err)
	defer l.Close()
	info, err := l.Info()
	require.NoError(t, err)
	prog, err := ebpf.NewProgramFromID(info.Program)
	require.NoError(t, err)
	defer prog.Close()
	var answers []string
	for _, a := range []struct{ src, dst string }{
		{"10.0.0.1", "10.0.0.2"}, {"fd00::1", "fd00::2"}, {"10.0.0.1", "10.96.0.1"}, {"fd00::1", "fd96::1"},
	} {
		for _, port := range []uint16{80, 443, 22} {
			in, out := skbContext{Ifindex: uint32(n.client.Ifindex)}, skbContext{}
			opts := ebpf.RunOptions{Data: tcpFrame(t, a.src, a.dst, sport, port, syn), DataOut: make([]byte, 256), Context: &in, ContextOut: &out}
			_, err := prog.Run(&opts)
			require.NoError(t, err)
			tcp := 34
			if addr(a.src).Is6() {
				tcp = 54
			}
			answers = append(answers, fmt.Sprintf("%s:%d verdict %d to port %d", a.dst, port, notedVerdict(&out.CB), int(opts.DataOut[tcp+2])<<8|int(opts.DataOut[tcp+3])))
		}
	}
	return answers
}

// forgetFlows deletes the flows of a source port, without a loader.
func forgetFlows(t *testing.T, dir string, sport uint16) {
	t.Helper()
	for _, name := range []string{bpf.ContainerMapCtAnswered, bpf.ContainerMapCtUnanswered} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		require.NoError(t, err)
		flows, err := readFlows(m)
		require.NoError(t, err)
		for key := range flows {
			if decodePort(key.Sport) == sport || decodePort(key.Dport) == sport {
				require.NoError(t, m.Delete(&key))
			}
		}
		require.NoError(t, m.Close())
	}
}

const childEnv = "WEIR_TEST_KILL_AT"

// TestMain is also the loader that is killed: a child of
// TestALoaderKilledAtAnyStepLeavesTheOldStateOrTheNew.
func TestMain(m *testing.M) {
	if at := os.Getenv(childEnv); at != "" {
		if err := dieAt(at); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// dieAt opens the datapath and applies the strict state, and kills itself at
// the step of that number.
func dieAt(at string) error {
	kill, err := strconv.Atoi(at)
	if err != nil {
		return err
	}
	opts := pinnedOptions(os.Getenv(childEnv + "_PINS"))
	step, drifts := 0, os.Getenv(childEnv+"_DRIFTS") != ""
	opts.Step = func(name string) {
		if drifts && !ofRepair(name) {
			return
		}
		if step++; step == kill {
			fmt.Printf("%s", name)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	client, err := existingDevice("client")
	if err != nil {
		return err
	}
	web, err := existingDevice("web")
	if err != nil {
		return err
	}
	d, err := Open(opts)
	if err != nil {
		return err
	}
	if err := applyBefore(d, os.Getenv(childEnv+"_BEFORE"), &step); err != nil {
		return err
	}
	if drifts {
		return repairOrDie(d)
	}
	if _, err := d.Apply(strict(client, web)); err != nil {
		return err
	}
	return d.Close()
}

// applyBefore applies the state in a file, if there is one, and counts no steps of it:
// what is applied next is written as differences.
func applyBefore(d *Datapath, file string, step *int) error {
	if file == "" {
		return nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	state := &model.State{}
	if err := json.Unmarshal(raw, state); err != nil {
		return err
	}
	opened := *step
	*step = math.MinInt
	_, err = d.Apply(state)
	*step = opened
	return err
}

func TestALoaderKilledAtAnyStepLeavesTheOldStateOrTheNew(t *testing.T) {
	testKilledAtAnyStep(t, false)
}

func TestALoaderKilledInDifferencesLeavesTheOldStateOrTheNew(t *testing.T) {
	testKilledAtAnyStep(t, true)
}

// testKilledAtAnyStep kills a loader at each step of a change of states: one that begins, or
// one that has applied the old state itself.
func testKilledAtAnyStep(t *testing.T, goesOn bool) {
	n := newNode(t)
	lenient(t, n)
	before := ""
	if goesOn {
		raw, err := json.Marshal(n.state)
		require.NoError(t, err)
		before = filepath.Join(t.TempDir(), "state.json")
		require.NoError(t, os.WriteFile(before, raw, 0o600))
	}
	dir := pinDir(t)
	restore := func() {
		d, err := Open(pinnedOptions(dir))
		require.NoError(t, err)
		_, err = d.Apply(n.state.Clone())
		require.NoError(t, err)
		require.NoError(t, d.Close())
	}
	restore()
	if haveTCX, err := haveTCX(); err != nil || !haveTCX {
		t.Skip("kernel before 6.6: clsact has no links to ask the programs by")
	}
	const sport = 20000
	// Always from the same port: a Maglev table leads it to the same backend.
	ask := func() []string {
		forgetFlows(t, dir, sport)
		return askPrograms(t, dir, n, sport)
	}
	old := ask()

	// A flow that both states allow, and that has to outlive all of this.
	established := func() {
		d, err := Open(pinnedOptions(dir))
		require.NoError(t, err)
		defer func() { require.NoError(t, d.Close()) }()
		run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.0.0.2", 50000, 22, syn), model.Forward)
		run(t, d, n.web, tcpFrame(t, "10.0.0.2", "10.0.0.1", 22, 50000, synAck), model.Forward)
	}
	established()

	var killed []string
	var new []string
	outcomes := map[string]int{}
	for at := 1; new == nil; at++ {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), childEnv+"="+strconv.Itoa(at), childEnv+"_PINS="+dir, childEnv+"_BEFORE="+before)
		said, err := cmd.Output()
		var exit *exec.ExitError
		if err == nil {
			new = ask()
			break
		}
		require.ErrorAs(t, err, &exit)
		require.Equalf(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), "the loader failed: %s", exit.Stderr)
		killed = append(killed, string(said))
		after := strings.Join(ask(), "\n")
		outcomes[after]++
		restore()
		require.Equal(t, old, ask(), "a loader after the one killed at %q does not make the state whole", said)
	}
	require.NotEqual(t, old, new)
	require.Greater(t, len(killed), 10)
	for outcome, times := range outcomes {
		require.Containsf(t, []string{strings.Join(old, "\n"), strings.Join(new, "\n")}, outcome, "%d times neither the old state nor the new", times)
	}
	d := openDatapath(t, pinnedOptions(dir))
	ran := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.0.0.2", 50000, 22, ack), model.Forward)
	require.Equal(t, FlowRejudged, ran.Decision.Flow, "the flow of before is known still")
	fmt.Printf("loader killed at %d steps: %d times the old state, %d times the new, 0 times neither\n", len(killed),
		outcomes[strings.Join(old, "\n")], outcomes[strings.Join(new, "\n")])
}

func TestARestartKeepsEveryFlow(t *testing.T) {
	n := newNode(t)
	dir := pinDir(t)
	d, err := Open(pinnedOptions(dir))
	require.NoError(t, err)
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	const flows = 100
	for i := range uint16(flows) {
		run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 30000+i, 80, syn), model.Forward)
		run(t, d, n.web, tcpFrame(t, "10.0.0.2", "10.0.0.1", 8080, 30000+i, synAck), model.Forward)
	}
	require.NoError(t, d.Close())

	d = openDatapath(t, pinnedOptions(dir))
	for i := range uint16(flows) {
		ran := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 30000+i, 80, ack), model.Forward)
		require.Equal(t, FlowKnown, ran.Decision.Flow)
	}
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	for i := range uint16(flows) {
		ran := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 30000+i, 80, ack), model.Forward)
		require.Equal(t, FlowRejudged, ran.Decision.Flow)
	}
}

// A set without rules has no entry in the table: the loader after a restart has
// to know its number from the endpoints that have it.
func TestARestartOpensNoEndpointWhoseRuleSetIsEmpty(t *testing.T) {
	n := newNode(t)
	dir := pinDir(t)
	closed := newState(n.client, n.web)
	closed.RuleSets = []model.RuleSet{{Key: "nothing"}}
	closed.Endpoints[0].RuleSet, closed.Endpoints[1].RuleSet = "nothing", "nothing"
	d, err := Open(pinnedOptions(dir))
	require.NoError(t, err)
	_, err = d.Apply(closed)
	require.NoError(t, err)
	require.NoError(t, d.Close())

	opts := pinnedOptions(dir)
	var sport uint16 = 2000
	steps := 0
	opts.Step = func(step string) {
		if d == nil || step == "end" {
			return
		}
		steps++
		sport++
		ran := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.0.0.2", sport, 80, syn), model.Drop)
		require.Equalf(t, model.ReasonPolicyEgress, ran.Decision.Reason, "before the step %q", step)
	}
	d = nil
	d, err = Open(opts)
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Close()) }()
	_, err = d.Apply(newState(n.client, n.web))
	require.NoError(t, err)
	require.Greater(t, steps, 5)
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.0.0.2", 1999, 80, syn), model.Forward)
}

func TestASecondLoaderIsRefusedAndToldByWhom(t *testing.T) {
	newNode(t)
	dir := pinDir(t)
	d, err := Open(pinnedOptions(dir))
	require.NoError(t, err)
	_, err = Open(pinnedOptions(dir))
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorContains(t, err, fmt.Sprintf("pid-%d-", os.Getpid()))
	require.NoError(t, d.Remove())
	require.NoDirExists(t, dir, "Remove leaves nothing")
}

func TestPinsThatAreGoneAreMadeAgain(t *testing.T) {
	n := newNode(t)
	dir := pinDir(t)
	d := openDatapath(t, pinnedOptions(dir))
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	links, err := os.ReadDir(filepath.Join(dir, "links"))
	require.NoError(t, err)
	gone := []string{filepath.Join(dir, bpf.ContainerMapCtAnswered), filepath.Join(dir, "rules")}
	if len(links) > 0 {
		gone = append(gone, filepath.Join(dir, "links", links[0].Name()))
	}
	for _, path := range gone {
		require.NoError(t, os.Remove(path))
	}
	_, err = d.Collect()
	require.NoError(t, err)
	for _, path := range gone {
		require.FileExists(t, path)
	}

	t.Log("another bpffs over the first")
	over := filepath.Dir(dir)
	require.NoError(t, unix.Mount("bpf", over, "bpf", 0, ""))
	defer func() { require.NoError(t, unix.Unmount(over, unix.MNT_DETACH)) }()
	_, err = d.Collect()
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(dir, "endpoints"))
}

func TestForeignPinsAreRefusedByName(t *testing.T) {
	n := newNode(t)
	dir := pinDir(t)
	require.NoError(t, os.MkdirAll(dir, 0o700))
	foreign, err := ebpf.NewMap(&ebpf.MapSpec{Name: "theirs", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	require.NoError(t, err)
	defer foreign.Close()
	path := filepath.Join(dir, bpf.ContainerMapCtAnswered)
	require.NoError(t, foreign.Pin(path))
	_, err = Open(pinnedOptions(dir))
	require.ErrorIs(t, err, ErrForeignPin)
	require.ErrorContains(t, err, path)
	require.NoError(t, foreign.Unpin())

	d := openDatapath(t, pinnedOptions(dir))
	require.NoError(t, os.Remove(path))
	require.NoError(t, foreign.Pin(path))
	_, err = d.Apply(n.state.Clone())
	require.ErrorIs(t, err, ErrForeignPin)
	require.ErrorContains(t, err, path)
}

// TestATablesLayoutMayChangeAndChangeBack moves the pinned tables to a layout
// in which a flow has a field more, in its middle, and wider ports of its way
// out; then a loader of this version takes them over.
func TestATablesLayoutMayChangeAndChangeBack(t *testing.T) {
	n := newNode(t)
	dir := pinDir(t)
	d, err := Open(pinnedOptions(dir))
	require.NoError(t, err)
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 30000, 80, syn), model.Forward)
	run(t, d, n.web, tcpFrame(t, "10.0.0.2", "10.0.0.1", 8080, 30000, synAck), model.Forward)
	before, err := d.Flows()
	require.NoError(t, err)
	require.NoError(t, d.Close())

	spec, err := bpf.LoadContainer()
	require.NoError(t, err)
	configureSizes(spec, dir)
	widen(t, spec.Maps[bpf.ContainerMapCtAnswered])
	all, err := planMoves(spec, dir)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.NoError(t, all[0].pin(all[0].to))
	require.NoError(t, all.close())
	moved, err := ebpf.LoadPinnedMap(filepath.Join(dir, bpf.ContainerMapCtAnswered), nil)
	require.NoError(t, err)
	require.Equal(t, spec.Maps[bpf.ContainerMapCtAnswered].ValueSize, moved.ValueSize())
	require.NoError(t, moved.Close())

	d = openDatapath(t, pinnedOptions(dir))
	after, err := d.Flows()
	require.NoError(t, err)
	for i := range after {
		after[i].Idle = 0
	}
	require.Len(t, after, len(before))
	ran := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 30000, 80, ack), model.Forward)
	require.Equal(t, FlowKnown, ran.Decision.Flow)
	requireRouted(t, tcpFrame(t, "10.0.0.1", "10.0.0.2", 30000, 8080, ack), ran.Data)
}

// TestTablesOfFormerNamesAreTakenOver begins with the pins that an earlier version made
// under its own names, of which one has another layout too.
func TestTablesOfFormerNamesAreTakenOver(t *testing.T) {
	n := newNode(t)
	dir := pinDir(t)
	d, err := Open(pinnedOptions(dir))
	require.NoError(t, err)
	n.state.Services = n.state.Services.With(model.Service{
		Name: model.PortRef{Namespace: "default", Name: "more", Port: "80"}, Address: addr("10.96.0.9"), Port: 80, Protocol: model.ProtocolTCP,
		Backends: backends(uint16(slotsARow), 1),
	})
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 30000, 80, syn), model.Forward)
	run(t, d, n.web, tcpFrame(t, "10.0.0.2", "10.0.0.1", 8080, 30000, synAck), model.Forward)
	before, err := d.Flows()
	require.NoError(t, err)
	require.NoError(t, d.Close())

	spec, err := bpf.LoadContainer()
	require.NoError(t, err)
	configureSizes(spec, dir)
	widen(t, spec.Maps[bpf.ContainerMapCtUnanswered])
	for former, now := range model.FormerTables() {
		if now == model.TableSlotRows {
			pinUnpackedSlots(t, dir, spec.Maps[string(now)], string(former))
			continue
		}
		pinFormer(t, dir, spec.Maps[string(now)], string(former))
	}

	v, err := OpenView(dir)
	require.ErrorIs(t, err, ErrForeignPin, "of another layout")
	require.Nil(t, v)
	d, err = Open(pinnedOptions(dir))
	require.NoError(t, err)
	for former, now := range model.FormerTables() {
		require.NoFileExists(t, filepath.Join(dir, string(former)))
		require.FileExists(t, filepath.Join(dir, string(now)))
	}
	after, err := d.Flows()
	require.NoError(t, err)
	require.Len(t, after, len(before))
	ran := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 30000, 80, ack), model.Forward)
	require.Equal(t, FlowKnown, ran.Decision.Flow)
	requireRouted(t, tcpFrame(t, "10.0.0.1", "10.0.0.2", 30000, 8080, ack), ran.Data)
	opening := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 30001, 80, syn), model.Forward)
	requireRouted(t, tcpFrame(t, "10.0.0.1", "10.0.0.2", 30001, 8080, syn), opening.Data)
	d.last = nil // looks at all of the tables
	change, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.Zero(t, change.Addresses, "they have been kept")
	require.Zero(t, change.Services, "their lists have been kept")
	require.NoError(t, d.Remove(), "nothing is left beside the pins")
}

// pinUnpackedSlots pins what a table of rows holds as one that has a slot an entry.
func pinUnpackedSlots(t *testing.T, dir string, spec *ebpf.MapSpec, former string) {
	t.Helper()
	path := filepath.Join(dir, spec.Name)
	from, err := ebpf.LoadPinnedMap(path, nil)
	require.NoError(t, err)
	defer from.Close()
	to, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: former, Type: ebpf.Hash, KeySize: 8, ValueSize: uint32(unsafe.Sizeof(slotValue{})), MaxEntries: spec.MaxEntries, Flags: spec.Flags,
	})
	require.NoError(t, err)
	defer to.Close()
	require.NoError(t, readBatches(from, func(key slotRowKey, row slotRow) {
		for i, slot := range row.Slot {
			if slot != (slotValue{}) {
				require.NoError(t, to.Put(formerSlotKey{key.Set, key.Row*uint32(slotsARow) + uint32(i)}, slot))
			}
		}
	}))
	require.NoError(t, to.Pin(filepath.Join(dir, former)))
	require.NoError(t, os.Remove(path))
}

// pinFormer gives a pinned table its former name, and its structures theirs.
func pinFormer(t *testing.T, dir string, spec *ebpf.MapSpec, former string) {
	t.Helper()
	path := filepath.Join(dir, spec.Name)
	m := &move{name: spec.Name, path: path}
	var err error
	m.from, err = ebpf.LoadPinnedMap(path, nil)
	require.NoError(t, err)
	defer m.from.Close()
	require.NoError(t, m.plan(spec))
	earlier := spec.Copy()
	earlier.Name = former
	for _, of := range []*btf.Type{&earlier.Key, &earlier.Value} {
		if s, ok := btf.UnderlyingType(*of).(*btf.Struct); ok && formerStructs[s.Name] != "" {
			renamed := *s
			renamed.Name = formerStructs[s.Name]
			*of = &renamed
		}
	}
	to, err := ebpf.NewMap(earlier)
	require.NoError(t, err)
	defer to.Close()
	require.NoError(t, m.copyOver(to, ebpf.UpdateAny))
	require.NoError(t, to.Pin(filepath.Join(dir, former)))
	require.NoError(t, os.Remove(path))
}

// TestTablesOfAnEarlierLayoutAreTakenOver begins with tables in which services
// have no more than slots, and counters are of two hooks.
func TestTablesOfAnEarlierLayoutAreTakenOver(t *testing.T) {
	n := newNode(t)
	dir := pinDir(t)
	d, err := Open(pinnedOptions(dir))
	require.NoError(t, err)
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 30000, 80, syn), model.Forward)
	require.NoError(t, d.Close())

	spec, err := bpf.LoadContainer()
	require.NoError(t, err)
	configureSizes(spec, dir)
	pair := btf.Copy(btf.UnderlyingType(spec.Maps["services"].Value)).(*btf.Struct)
	service := pair.Members[0].Type.(*btf.Array).Type.(*btf.Struct)
	service.Members, service.Size = service.Members[:4], 16
	pair.Size = 2 * service.Size
	spec.Maps["services"].Value, spec.Maps["services"].ValueSize = pair, pair.Size
	spec.Maps["counters"].MaxEntries /= 4
	all, err := planMoves(spec, dir)
	require.NoError(t, err)
	require.Len(t, all, 2)
	for _, m := range all {
		require.NoError(t, m.pin(m.to))
	}
	require.NoError(t, all.close())
	for _, name := range []string{"nodes", "maglev", "sources", "affinities", "labels"} {
		require.NoError(t, os.Remove(filepath.Join(dir, name)), "there was none")
	}

	d = openDatapath(t, pinnedOptions(dir))
	known := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 30000, 80, syn), model.Forward)
	require.Equal(t, FlowKnown, known.Decision.Flow)
	fresh := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 30001, 80, syn), model.Forward)
	requireRouted(t, tcpFrame(t, "10.0.0.1", "10.0.0.2", 30001, 8080, syn), fresh.Data)
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
}

func configureSizes(spec *ebpf.CollectionSpec, dir string) {
	opts := pinnedOptions(dir)
	resize(spec, &opts)
}

// widen gives a flow a field more.
func widen(t *testing.T, m *ebpf.MapSpec) {
	t.Helper()
	flow := btf.Copy(btf.UnderlyingType(m.Value)).(*btf.Struct)
	u64 := flow.Members[0].Type
	middle := len(flow.Members) / 2
	at := (flow.Members[middle].Offset.Bytes() + 7) &^ 7
	for i := middle; i < len(flow.Members); i++ {
		flow.Members[i].Offset += btf.Bits(8 * 16)
	}
	flow.Members = slices.Insert(flow.Members, middle, btf.Member{Name: "mark_of_later", Type: u64, Offset: btf.Bits(8 * at)})
	flow.Size += 16
	m.Value, m.ValueSize = flow, flow.Size
}
