// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// datagram is a UDP datagram in two fragments.
func datagram(t testing.TB, src, dst string, id int) (first, later []byte) {
	t.Helper()
	of := func(offset, more int, behind ...frame.Layer) []byte {
		l := ip(src, dst)
		if l.Kind == "ipv4" {
			l.Fields = append(l.Fields, num("id", id), num("frag", offset), num("flags", more), num("proto", 17))
			return build(t, append([]frame.Layer{l}, behind...)...)
		}
		fragment := frame.Layer{Kind: "fragment", Fields: []frame.Field{num("id", id), num("offset", offset), num("more", more), num("next", 17)}}
		return build(t, append([]frame.Layer{l, fragment}, behind...)...)
	}
	ports := []byte{0x03, 0xe8, 0x07, 0xd0, 0, 120, 0x12, 0x34}
	raw := func(data []byte) frame.Layer {
		return frame.Layer{Kind: "payload", Fields: []frame.Field{{Name: "hex", Value: frame.Data(data)}}}
	}
	first = of(0, 1, raw(append(ports, make([]byte, 56)...)))
	later = of(8, 0, raw(make([]byte, 56)))
	return first, later
}

// busy keeps all processors at work until the test ends.
func busy(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 2 * runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for ctx.Err() == nil {
			}
		})
	}
	t.Cleanup(func() { stop(); all.Wait() })
}

func TestNoFragmentIsLostToTheClock(t *testing.T) {
	needRoot(t)
	var packets []sent
	for i := range 5000 {
		first, later := datagram(t, "10.0.0.1", "10.0.0.2", i+1)
		packets = append(packets, sent{float64(2*i) * 10e-6, first, 0}, sent{float64(2*i+1) * 10e-6, later, 0})
	}
	captures := captureOf(t, packets...)
	busy(t)
	got, _, err := replayed(t, captures, Options{})
	require.NoError(t, err)
	require.Len(t, got, 10000)
	for _, o := range got {
		require.Equal(t, Forward, o.Verdict, "packet %d: %s", o.Number, o.Reason)
	}
}

// printed is all that is printed and written of a replay.
func printed(captures *Captures, o Options) (string, error) {
	var lines []byte
	var annotated bytes.Buffer
	var s Summary
	err := WithNetwork(context.Background(), func(n *Network) error {
		r, err := Open(context.Background(), n, captures, o)
		if err != nil {
			return err
		}
		defer r.Close()
		a, err := NewAnnotator(&annotated, captures, o)
		if err != nil {
			return err
		}
		return r.Run(context.Background(), captures, func(o *Outcome) error {
			s.Add(o)
			lines = append(AppendJSON(lines, o, true), '\n')
			lines = AppendText(lines, o, func(Verdict) (string, string) { return "", "" })
			return a.Write(o)
		})
	})
	if err != nil {
		return "", err
	}
	s.Finish()
	text := bytes.NewBuffer(lines)
	err = s.Text(text)
	return text.String() + annotated.String(), err
}

const sticky = `
apiVersion: v1
kind: Pod
metadata: {name: web-2, labels: {app: web}}
status: {podIP: 10.1.0.3, podIPs: [{ip: 10.1.0.3}, {ip: "fd01::3"}]}
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec: {clusterIP: 10.96.0.2, clusterIPs: [10.96.0.2, "fd96::2"], selector: {app: web}, ports: [{port: 80, targetPort: 8080}],
  sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}}
`

func TestAReplayIsTheSameEachTimeAndAmongOthers(t *testing.T) {
	needRoot(t)
	var packets []sent
	at := func(after float64, frames ...[]byte) {
		for _, f := range frames {
			packets = append(packets, sent{after, f, 0})
		}
	}
	for i := range 3000 {
		after := float64(i) * 0.0137
		for family, a := range [][3]string{{"10.1.0.1", "10.1.0.2", "10.96.0.2"}, {"fd01::1", "fd01::2", "fd96::2"}} {
			first, later := datagram(t, a[0], a[1], 10*i+family)
			at(after, first, later, tcp(t, a[0], a[2], 1000+i%500, 80, syn), udp(t, a[0], a[1], 1000+i%700, 53, 20))
		}
		at(after+0.001, tcp(t, "10.1.0.2", "10.1.0.1", 8080, 1000+i%500, syn|ack))
	}
	captures := captureOf(t, packets...)
	var many, laters []sent // more datagrams than their table has room for
	for i := range 9000 {
		first, later := datagram(t, "10.1.0.1", "10.1.0.2", i+1)
		many, laters = append(many, sent{0, first, 0}), append(laters, sent{1, later, 0})
	}
	crowded := captureOf(t, append(many, laters...)...)
	for name, o := range map[string]Options{
		"as seen": {At: model.FromContainer}, "of objects": {At: model.FromContainer, Objects: objects(t, sticky)},
		"a full table": {At: model.FromContainer},
		"into pods":    {At: model.ToContainer, Objects: objects(t, sticky)},
	} {
		captures := captures
		if name == "a full table" {
			captures = crowded
		}
		t.Run(name, func(t *testing.T) {
			alone, err := printed(captures, o)
			require.NoError(t, err)
			busy(t)
			var others [3]string
			var errs [3]error
			var all sync.WaitGroup
			for i := range others {
				all.Go(func() { others[i], errs[i] = printed(captures, o) })
			}
			all.Wait()
			for i := range others {
				require.NoError(t, errs[i])
				require.True(t, alone == others[i], "%s", firstDifference(alone, others[i]))
			}
		})
	}
}

func firstDifference(a, b string) string {
	at := 0
	for at < min(len(a), len(b)) && a[at] == b[at] {
		at++
	}
	return fmt.Sprintf("%d and %d bytes, from %d on:\n%q\n%q", len(a), len(b), at, a[max(0, at-200):min(len(a), at+200)], b[max(0, at-200):min(len(b), at+200)])
}

// The steps of time are shorter than a tick, and each counts.
func TestTheClockIsExact(t *testing.T) {
	needRoot(t)
	query := udp(t, "10.0.0.1", "192.0.2.1", 1000, 53, 10)
	first, later := datagram(t, "10.0.0.1", "192.0.2.1", 7)
	got, _, err := replayed(t, captureOf(t,
		sent{0, query, 0}, sent{30, query, 0}, // just within its patience
		sent{60.000001, query, 0}, // a microsecond beyond it
		sent{100, first, 0}, sent{130, later, 0}, sent{130.000001, later, 0},
	), Options{})
	require.NoError(t, err)
	require.Equal(t, []datapath.FlowLookup{"new", "known", "new"}, []datapath.FlowLookup{got[0].Flow, got[1].Flow, got[2].Flow})
	require.Equal(t, Forward, got[4].Verdict, got[4].Reason)
	require.Equal(t, Drop, got[5].Verdict, "a fragment whose first one is 30 s and a microsecond old")
}

func TestAClockThatStoodStillIsToldInAScenario(t *testing.T) {
	s := &script{}
	for i := range 5001 {
		s.pause(begin.Add(time.Duration(i) * 10 * time.Microsecond))
	}
	require.Equal(t, 50, bytes.Count(s.text.Bytes(), []byte("advance 1ms\n")), "what is too short to tell of adds up")
}
