// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// BenchmarkEndpointBesideCollector measures how long it takes to put a pod's endpoint
// into force, and to take it away, while as many entries of flows are collected without a
// pause, and while none are.
func BenchmarkEndpointBesideCollector(b *testing.B) {
	for _, entries := range []int{100_000, 200_000} {
		b.Run(fmt.Sprintf("entries=%d", entries), func(b *testing.B) {
			n := newNode(b)
			d := openDatapath(b, Options{Flows: uint32(2 * entries), Unanswered: 1024})
			without := *n.state
			without.Endpoints = n.state.Endpoints[:1]
			fillFlows(b, d, entries)
			change := func() (took []time.Duration) {
				for range 100 {
					for _, state := range []*model.State{n.state, &without} {
						time.Sleep(3 * time.Millisecond) // so that the collector has its turn
						began := time.Now()
						_, err := d.Apply(state)
						require.NoError(b, err)
						took = append(took, time.Since(began))
					}
				}
				return took
			}
			change()
			alone := change()
			collected, end := make(chan int), make(chan struct{})
			go func() {
				runs := 0
				for {
					select {
					case <-end:
						collected <- runs
						return
					default:
					}
					if _, err := d.Collect(); err != nil {
						b.Error(err)
					}
					runs++
				}
			}()
			beside := change()
			close(end)
			require.Positive(b, <-collected)
			b.ReportMetric(0, "ns/op")
			report := func(name string, took []time.Duration) time.Duration {
				slices.Sort(took)
				b.ReportMetric(float64(median(took).Microseconds()), name+"-p50-us")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), name+"-p99-us")
				return median(took)
			}
			b.ReportMetric(float64(report("beside", beside))/float64(report("alone", alone)), "times-alone")
		})
	}
}

// fillFlows writes answered flows that live for as long as the benchmark.
func fillFlows(b *testing.B, d *Datapath, entries int) {
	b.Helper()
	now, err := d.now()
	require.NoError(b, err)
	keys, values := make([]flowKey, entries), make([]flowValue, entries)
	for i := range keys {
		keys[i] = flowKey{Src: encodeAddr(peerAddr(i, false)), Dst: encodeAddr(addr("10.0.0.1")), Sport: 1, Dport: 2, Proto: 6, Hook: 1, Ifindex: 3}
		values[i] = flowValue{LastSeen: now, Flags: uint8(bpf.ContainerFlowFlagsFLOW_ANSWERED), Seen: 0x12, Src: keys[i].Dst, Dst: keys[i].Src}
	}
	require.NoError(b, update(d.maps[bpf.ContainerMapCtAnswered], keys, values))
}

// cpuTime is what the process has taken of CPUs.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var used unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
