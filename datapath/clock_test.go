// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

func TestAStoppedClockGoesOnlyByAdvance(t *testing.T) {
	n := newNode(t)
	object, err := os.ReadFile("../bpf/container_bpfel.o")
	require.NoError(t, err)
	for name, opts := range map[string]Options{
		"the embedded programs": {}, "on kernels without the coarse clock": {Without: []string{FeatureCoarseClock}},
		"programs of an object file": {Object: object},
	} {
		t.Run(name, func(t *testing.T) {
			opts.Flows, opts.Unanswered, opts.StopClock = 1024, 1024, true
			d := openDatapath(t, opts)
			_, err := d.Apply(n.state.Clone())
			require.NoError(t, err)
			var seen []uint64
			for port := range uint16(3) {
				run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.0.0.2", 40000+port, 8080, syn), model.Forward)
				require.NoError(t, d.Advance(time.Microsecond))
				flows, err := readFlows(d.maps[bpf.ContainerMapCtUnanswered])
				require.NoError(t, err)
				for key, e := range flows {
					if !e.reply() && decodePort(key.Sport) == 40000+port {
						seen = append(seen, e.value.LastSeen)
					}
				}
			}
			at := uint64(stoppedAt)
			require.Equal(t, []uint64{at, at + 1000, at + 2000}, seen)
			now, err := d.now()
			require.NoError(t, err)
			require.Equal(t, at+3000, now, "the collector's clock is the programs'")
		})
	}
}

func TestTheTimeIsBoundedByTheClockOfThePrograms(t *testing.T) {
	newNode(t)
	d := openDatapath(t, small())
	require.NoError(t, d.Advance(time.Hour))
	read := func(clock int32) time.Duration {
		var ts unix.Timespec
		require.NoError(t, unix.ClockGettime(clock, &ts))
		return time.Duration(ts.Nano()) + time.Hour
	}
	r := d.FlowReader()
	for range 1000 {
		coarse, fine := read(unix.CLOCK_MONOTONIC_COARSE), read(unix.CLOCK_MONOTONIC)
		least, most, err := r.Now()
		require.NoError(t, err)
		require.GreaterOrEqual(t, least, coarse, "packets that come now have no earlier time")
		require.LessOrEqual(t, least, read(unix.CLOCK_MONOTONIC_COARSE))
		require.GreaterOrEqual(t, most, fine, "the fine clock is that of older kernels")
	}
}

func TestTheClockNeverGoesBack(t *testing.T) {
	newNode(t)
	d := openDatapath(t, small())
	require.ErrorContains(t, d.Advance(-time.Nanosecond), "does not go back")
	require.NoError(t, d.Advance(0))
}

func TestAStoppedClockIsOnlyForRuns(t *testing.T) {
	for name, opts := range map[string]Options{
		"attached": {Attach: true}, "pinned": {PinPath: t.TempDir()}, "sockets": {Cgroup: "/sys/fs/cgroup"},
	} {
		opts.StopClock = true
		_, err := Open(opts)
		require.ErrorIs(t, err, errStopped, name)
	}
}

func TestNoProgramHasAClockThatIsNotStopped(t *testing.T) {
	load := map[string]func() (*ebpf.CollectionSpec, error){"container": bpf.LoadContainer, "host": bpf.LoadHost, "socket": bpf.LoadSocket}
	for object, load := range load {
		spec, err := load()
		require.NoError(t, err)
		stopClocks(spec)
		for name, prog := range spec.Programs {
			for _, ins := range prog.Instructions {
				if !ins.IsBuiltinCall() {
					continue
				}
				helper := asm.BuiltinFunc(ins.Constant)
				require.NotRegexp(t, `(?i)ktime|jiffies|random`, helper.String(), "%s, program %s: time and chance are inputs", object, name)
			}
		}
	}
}

// BenchmarkAdvance sets the clock as a replay does for each packet, and as any other
// datapath has it.
func BenchmarkAdvance(b *testing.B) {
	newNode(b)
	for name, stopped := range map[string]bool{"stopped": true, "of the kernel": false} {
		b.Run(name, func(b *testing.B) {
			opts := small()
			opts.StopClock = stopped
			d := openDatapath(b, opts)
			for b.Loop() {
				if err := d.Advance(time.Nanosecond); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
