// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/pcap"
)

// said is a packet of TCP between a client and a server, with what it met.
type said struct {
	back     bool
	flags    int
	seq, ack int
	payload  int
	verdict  Verdict
	never    bool // what is to come out
}

func (s said) outcome(t *testing.T, number int) *Outcome {
	t.Helper()
	src, dst, sport, dport := "10.1.0.1", "10.1.0.2", 1000, 80
	if s.back {
		src, dst, sport, dport = dst, src, dport, sport
	}
	b := build(t, ip(src, dst), layer("tcp", num("sport", sport), num("dport", dport), num("flags", s.flags), num("seq", s.seq), num("ack", s.ack)), layer("payload", num("size", s.payload)))
	o := &Outcome{Number: number, Header: readHeader(b), Frame: b, Length: len(b), Verdict: s.verdict, payload: s.payload}
	o.seq = binary.BigEndian.Uint32(b[o.Header.l4+4:])
	return o
}

func TestWhatFollowsFromADroppedPacketIsNeverSent(t *testing.T) {
	const fin, psh, rst = 0x01, 0x08, 0x04
	for name, c := range map[string]struct {
		said []said
		dead bool
	}{
		"all goes on": {[]said{
			{false, syn, 100, 0, 0, Forward, false}, {true, syn | ack, 500, 101, 0, Forward, false}, {false, ack, 101, 501, 0, Forward, false},
			{false, ack | psh, 101, 501, 10, Forward, false}, {true, ack, 501, 111, 0, Forward, false}}, false},
		"the opening is dropped": {[]said{
			{false, syn, 100, 0, 0, Drop, false}, {true, syn | ack, 500, 101, 0, Forward, true}, {false, ack, 101, 501, 0, Forward, true},
			{false, ack | psh, 101, 501, 10, Forward, true}, {true, ack, 501, 111, 90, Forward, true}, {false, ack, 111, 591, 0, Forward, true}}, true},
		"the opening is sent again, and goes on": {[]said{
			{false, syn, 100, 0, 0, Drop, false}, {false, syn, 100, 0, 0, Forward, false}, {true, syn | ack, 500, 101, 0, Forward, false}}, false},
		"the answer is dropped": {[]said{
			{false, syn, 100, 0, 0, Forward, false}, {true, syn | ack, 500, 101, 0, Drop, false}, {false, ack, 101, 501, 0, Forward, true}}, true},
		"data is dropped, beyond 2^32": {[]said{
			{false, ack, 4_294_967_290, 501, 10, Drop, false}, {true, ack, 501, 4, 0, Forward, true}, {true, ack, 501, 4_294_967_290, 10, Forward, false}}, true},
		"data is dropped and sent again": {[]said{
			{false, ack, 100, 501, 10, Forward, false}, {false, ack, 110, 501, 10, Drop, false}, {false, ack, 110, 501, 10, Forward, false},
			{true, ack, 501, 120, 0, Forward, false}}, false},
		"what has come already is dropped when it comes again": {[]said{
			{false, ack, 100, 501, 10, Forward, false}, {false, ack, 100, 501, 10, Drop, false}, {true, ack, 501, 110, 0, Forward, false}}, false},
		"a reset without a number answers what is dropped": {[]said{
			{false, syn, 100, 0, 0, Drop, false}, {true, rst, 0, 0, 0, Forward, true}}, true},
		"an acknowledgement alone leaves nothing behind": {[]said{
			{false, ack, 100, 501, 10, Forward, false}, {true, ack, 501, 110, 0, Forward, false}, {true, ack, 501, 110, 0, Drop, false},
			{false, fin | ack, 110, 501, 0, Forward, false}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var all Connections
			var conn *Connection
			for i, s := range c.said {
				o := s.outcome(t, i+1)
				conn = all.Add(o)
				require.Equal(t, s.never, o.NeverSent, "packet %d", i+1)
			}
			require.Len(t, all.List, 1)
			require.Equal(t, len(c.said), conn.Packets())
			require.Equal(t, len(c.said), conn.Forward+conn.Drop+conn.NeverSent)
			require.Equal(t, c.dead, conn.Dead())
		})
	}
}

func TestAPortThatIsUsedAgainIsAnotherConnection(t *testing.T) {
	const rst = 0x04
	var all Connections
	for i, s := range []said{
		{false, syn, 100, 0, 0, Forward, false}, {true, rst | ack, 0, 101, 0, Forward, false}, {false, syn, 900, 0, 0, Forward, false}, {true, syn | ack, 5, 901, 0, Forward, false},
	} {
		all.Add(s.outcome(t, i+1))
	}
	require.Len(t, all.List, 2)
	require.True(t, all.List[0].Ended())
	require.Equal(t, 3, all.List[1].First)
	require.Equal(t, 2, all.List[1].Packets())
}

func TestWhoAnswersFirstHasNotOpened(t *testing.T) {
	var all Connections
	c := all.Add(said{true, syn | ack, 500, 101, 0, Forward, false}.outcome(t, 1))
	require.Equal(t, "10.1.0.1", c.Header.Src.String())
	require.Equal(t, 1, c.Back.Packets)
}

func TestMoreConnectionsThanAreKeptAreCounted(t *testing.T) {
	for _, forget := range []bool{false, true} {
		all := Connections{Forget: forget}
		o := said{false, syn, 100, 0, 0, Forward, false}.outcome(t, 1)
		for i := range maxConnections + 10 {
			o.Number, o.Header.Sport, o.Header.Dport = i+1, uint16(i), uint16(1+i>>16)
			all.Add(o)
		}
		if forget {
			require.Len(t, all.List, maxConnections/2+10)
			require.Zero(t, all.More)
		} else {
			require.Len(t, all.List, maxConnections)
			require.Equal(t, 10, all.More)
		}
	}
}

// The service's two ways are one connection, although the backend's packets have
// another address.
func TestConnectionsGoThroughServices(t *testing.T) {
	needRoot(t)
	there := build(t, ip("10.1.0.1", "10.96.0.1"), layer("tcp", num("sport", 1000), num("dport", 80), num("flags", syn), num("seq", 100)))
	back := build(t, ip("10.1.0.2", "10.1.0.1"), layer("tcp", num("sport", 8080), num("dport", 1000), num("flags", syn|ack), num("seq", 7), num("ack", 101)))
	captures := captureOf(t, sent{0, there, 0}, sent{0, back, 0}, sent{1, udp(t, "10.1.0.1", "10.1.0.2", 1, 2, 0), 0}, sent{1, udp(t, "10.1.0.2", "10.1.0.1", 2, 1, 0), 0})
	connections := func(o Options) (all Connections) {
		o.At = model.FromContainer
		err := WithNetwork(context.Background(), func(n *Network) error {
			r, err := Open(context.Background(), n, captures, o)
			require.NoError(t, err)
			defer r.Close()
			return r.Run(context.Background(), captures, func(o *Outcome) error { all.Add(o); return nil })
		})
		require.NoError(t, err)
		return all
	}
	none := func(Verdict) (string, string) { return "", "" }
	open := connections(Options{Objects: objects(t)})
	require.Len(t, open.List, 2)
	require.Equal(t, "       1  forward  tcp          1+1      108 B  default/client 10.1.0.1:1000 > service default/web 10.96.0.1:80 as 10.1.0.1:1000 > 10.1.0.2:8080\n",
		string(AppendConnection(nil, open.List[0], none)))
	shut := connections(Options{Objects: objects(t, closed)})
	require.Equal(t, 2, shut.dead())
	require.Len(t, shut.List, 2)
	require.Equal(t, 1, shut.List[0].NeverSent, "the backend's answer to what never came there")
	require.Contains(t, string(AppendConnection(nil, shut.List[1], none)), "> default/web 10.1.0.2:2  policy-ingress  by NetworkPolicy/default/closed, no rule of which matches  (1 drop, 1 never sent, dead)\n")
	line, err := AppendConnectionJSON(nil, shut.List[1], "end")
	require.NoError(t, err)
	require.Contains(t, string(line), `"event":"end","connection":3`)
	require.Contains(t, string(line), `"never_sent":1,"dead":true,"packet":3,"reason":"policy-ingress"`)
}

func TestAPipeIsReplayedAsItsPacketsCome(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, unix.Mkfifo(path, 0o600))
	ctx, stop := context.WithCancelCause(context.Background())
	told, idle := make(chan Outcome, 1), make(chan bool, 1)
	captures := &Captures{Paths: []string{path}, Idle: func() {
		select {
		case idle <- true:
		default:
		}
	}}
	require.True(t, captures.Streams())
	done := make(chan error, 1)
	var setup Setup
	go func() {
		done <- WithNetwork(ctx, func(n *Network) error {
			r, err := Open(ctx, n, captures, Options{At: model.FromContainer})
			if err != nil {
				return err
			}
			err = r.Run(ctx, captures, func(o *Outcome) error { told <- *o; return nil })
			setup = r.Setup
			_ = r.Close()
			return err
		})
	}()
	out, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer out.Close()
	w, err := pcap.NewWriter(out)
	require.NoError(t, err)
	n, err := w.AddInterface("eth0", "")
	require.NoError(t, err)
	packets := [][]byte{tcp(t, "10.0.0.1", "10.0.0.2", 1000, 80, syn), tcp(t, "10.0.0.2", "10.0.0.1", 80, 1000, syn|ack), tcp(t, "10.0.0.3", "10.0.0.2", 1, 2, syn)}
	var notes []string
	for i, b := range packets {
		require.NoError(t, w.Write(pcap.Packet{Interface: n, Time: begin, Data: b}))
		got := <-told // before the next one is there
		require.Equal(t, i+1, got.Number)
		require.Equal(t, Forward, got.Verdict, got.Reason)
		notes = append(notes, Note(&got))
		<-idle
	}
	require.Equal(t, notesOf(t, packets), notes, "as of a file, where it is known who will answer")
	stop(io.ErrClosedPipe) // while more is waited for
	require.ErrorIs(t, <-done, io.ErrClosedPipe)
	require.Equal(t, 3, setup.Endpoints)
	require.True(t, setup.Growing)
}

// notesOf are those of a file.
func notesOf(t *testing.T, packets [][]byte) (notes []string) {
	t.Helper()
	var all []sent
	for _, p := range packets {
		all = append(all, sent{0, p, 0})
	}
	captures := captureOf(t, all...)
	require.NoError(t, WithNetwork(t.Context(), func(n *Network) error {
		r, err := Open(t.Context(), n, captures, Options{At: model.FromContainer})
		if err != nil {
			return err
		}
		return errors.Join(r.Run(t.Context(), captures, func(o *Outcome) error { notes = append(notes, Note(o)); return nil }), r.Close())
	}))
	return notes
}

func TestAStreamGivesWhatItHasGot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, unix.Mkfifo(path, 0o600))
	s := newStream(context.Background(), path, nil)
	want := bytes.Repeat([]byte("weir"), 1<<18)
	go func() { _ = os.WriteFile(path, want, 0) }()
	got, err := io.ReadAll(s)
	require.NoError(t, err)
	require.Equal(t, want, got)
	_, err = io.ReadAll(newStream(context.Background(), path+"-not-there", nil))
	require.ErrorContains(t, err, "no such file")
}

func TestAFilterShowsWhatIsAskedFor(t *testing.T) {
	needRoot(t)
	there, back := tcp(t, "10.1.0.1", "10.96.0.1", 1000, 80, syn), tcp(t, "10.1.0.2", "10.1.0.1", 8080, 1000, syn|ack)
	captures := captureOf(t, sent{0, there, 0}, sent{0, back, 0}, sent{0, udp(t, "10.1.0.1", "192.0.2.1", 1, 0, 0), 0})
	shown := func(f func(r *Replay) Filter) (numbers []int) {
		err := WithNetwork(context.Background(), func(n *Network) error {
			r, err := Open(context.Background(), n, captures, Options{At: model.FromContainer, Objects: objects(t)})
			require.NoError(t, err)
			defer r.Close()
			filter := f(r)
			return r.Run(context.Background(), captures, func(o *Outcome) error {
				if filter.Match(o) {
					numbers = append(numbers, o.Number)
				}
				return nil
			})
		})
		require.NoError(t, err)
		return numbers
	}
	ends := func(r *Replay, texts ...string) (all []End) {
		for _, text := range texts {
			e, err := r.ReadEnd(text)
			require.NoError(t, err, text)
			all = append(all, e)
		}
		return all
	}
	for _, c := range []struct {
		name string
		f    func(r *Replay) Filter
		want []int
	}{
		{"all", func(*Replay) Filter { return Filter{} }, []int{1, 2, 3}},
		{"drops", func(*Replay) Filter { return Filter{Drops: true} }, []int{3}},
		{"a reason", func(*Replay) Filter { return Filter{Reasons: []string{"bad-udp-port"}} }, nil},
		{"from a pod", func(r *Replay) Filter { return Filter{From: ends(r, "default/client")} }, []int{1, 3}},
		{"from an address", func(r *Replay) Filter { return Filter{From: ends(r, "10.1.0.2")} }, []int{2}},
		{"from a service, as it left", func(r *Replay) Filter { return Filter{From: ends(r, "10.96.0.1")} }, []int{2}},
		{"to a service", func(r *Replay) Filter { return Filter{To: ends(r, "web")} }, []int{1}},
		{"to a backend, as it left", func(r *Replay) Filter { return Filter{To: ends(r, "10.1.0.2")} }, []int{1}},
		{"to a prefix, or a pod", func(r *Replay) Filter { return Filter{To: ends(r, "192.0.2.0/24", "client")} }, []int{2, 3}},
	} {
		got := shown(c.f)
		if c.name == "drops" || c.name == "a reason" {
			continue // which the kernel's verdicts decide
		}
		require.Equal(t, c.want, got, c.name)
	}
	_ = shown(func(r *Replay) Filter {
		_, err := r.ReadEnd("nobody")
		require.ErrorIs(t, err, ErrEnd)
		return Filter{}
	})
}

const nodes = `
apiVersion: v1
kind: Node
metadata: {name: worker}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: worker}
status: {podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {nodeName: worker}
status: {podIP: 10.1.0.2, podIPs: [{ip: 10.1.0.2}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
`

func TestAtANodesDeviceTheNodeIsWhoseItIs(t *testing.T) {
	needRoot(t)
	captures := captureOf(t,
		sent{0, tcp(t, "192.0.2.99", "192.0.2.10", 1000, 30080, syn), 0},
		sent{0, tcp(t, "192.0.2.10", "192.0.2.99", 4000, 443, syn), 0},
		sent{0, tcp(t, "10.1.0.1", "192.0.2.99", 4000, 443, syn), 0},
		sent{0, tcp(t, "192.0.2.99", "192.0.2.98", 4000, 443, syn), 0})
	objs, err := manifest.Parse("nodes.yaml", strings.NewReader(nodes))
	require.NoError(t, err)
	got, _, err := replayed(t, captures, Options{At: model.FromDevice, Objects: objs})
	require.NoError(t, err)
	require.Equal(t, Forward, got[0].Verdict, got[0].Reason)
	require.Equal(t, "default/web", got[0].To)
	require.EqualValues(t, 8080, got[0].Translated.Dport)
	require.Equal(t, []string{leaves, leaves}, []string{got[1].Reason, got[2].Reason})
	got, _, err = replayed(t, captures, Options{At: model.ToDevice, Objects: objs})
	require.NoError(t, err)
	require.Equal(t, arrives, got[0].Reason)
	require.Equal(t, Forward, got[1].Verdict, got[1].Reason)
	require.Equal(t, []string{isOfPod, isNoNodes}, []string{got[2].Reason, got[3].Reason})

	err = WithNetwork(context.Background(), func(n *Network) error {
		_, err := Open(context.Background(), n, captures, Options{At: model.FromDevice, Objects: objects(t)})
		return err
	})
	require.ErrorIs(t, err, ErrNode)
}

func TestCutHeadersAreCountedApart(t *testing.T) {
	var s Summary
	s.Add(&Outcome{Verdict: Drop, Reason: string(model.ReasonTruncated), Truncated: true, CutHeaders: true})
	s.Add(&Outcome{Verdict: Forward, Truncated: true})
	s.Finish()
	var out strings.Builder
	require.NoError(t, s.Text(&out))
	require.Equal(t, "2 packets: 1 forward, 0 drop, 0 refused, 1 with headers that the capture has cut; 1 cut behind their headers\n          1  forward  \n", out.String())
}
