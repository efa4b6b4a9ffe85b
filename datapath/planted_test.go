// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

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
