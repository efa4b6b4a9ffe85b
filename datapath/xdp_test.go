// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// TestTheHeadersServeXDPAsTheyServeTC passes frames through a program of each kind, which
// are made of the same headers and share their tables: what they decide and what they make
// of the frame is the same.
func TestTheHeadersServeXDPAsTheyServeTC(t *testing.T) {
	n := newNode(t)
	uplink := withUplink(t, n)
	for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
		for _, proto := range []model.Protocol{model.ProtocolTCP, model.ProtocolUDP} {
			n.state.Services = n.state.Services.With(model.Service{
				Name: model.PortRef{Namespace: "default", Name: "nobody", Port: "30090"}, Kind: model.KindNodePort, Scope: model.ScopeOutside,
				Address: addr(a), Port: 30090, Protocol: proto,
			})
		}
	}
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	xdp := loadXDP(t, d)

	for family, a := range map[string]struct{ outside, node string }{
		"IPv4": {"198.51.100.7", "192.0.2.1"}, "IPv6": {"2001:db8:7::7", "2001:db8::1"},
	} {
		for what, tt := range map[string]struct {
			frame    []byte
			decision model.Action
			reason   model.Reason
			returned int32 // enum xdp_action
		}{
			"a SYN to a frontend":               {tcpFrame(t, a.outside, a.node, 40000, 30080, syn), model.Forward, "", xdpRedirect},
			"a SYN to one whose backend is far": {tcpFrame(t, a.outside, a.node, 40000, 30081, syn), model.Forward, "", xdpPass},
			"a SYN to one without backends":     {tcpFrame(t, a.outside, a.node, 40000, 30090, syn), model.Reply, "no-backend", xdpTx},
			"a datagram to one without":         {udpFrame(t, a.outside, a.node, 40000, 30090), model.Reply, "no-backend", xdpTx},
			"flags that no TCP sends":           {tcpFrame(t, a.outside, a.node, 40000, 30080, func(tcp *layers.TCP) { tcp.SYN, tcp.FIN = true, true }), model.Drop, "bad-tcp-flags", xdpDrop},
			"a header that is cut off":          {cut(tcpFrame(t, a.outside, a.node, 40000, 30080, syn)), model.Drop, "bad-ip-length", xdpDrop},
			"one of this node's source":         {tcpFrame(t, a.node, a.node, 40000, 30080, syn), model.Drop, "martian-source", xdpDrop},
		} {
			what += " over " + family
			emptyConntrack(t, d)
			want, err := d.Run(model.FromDevice, Frame{Data: tt.frame, Ifindex: uplink.Ifindex})
			require.NoError(t, err, what)
			known, err := d.Run(model.FromDevice, Frame{Data: tt.frame, Ifindex: uplink.Ifindex})
			require.NoError(t, err, what)
			emptyConntrack(t, d)
			for _, want := range []Ran{want, known} {
				got := xdp.run(t, d, tt.frame)
				require.Equal(t, tt.decision, got.Decision.Action, "%s: %+v", what, got.Decision)
				require.Equal(t, tt.reason, got.Decision.Reason, what)
				require.Equal(t, Return{KindXDP, tt.returned}, got.Returned, what)
				if tt.decision == model.Drop { // from_device leaves broken ones to the kernel
					continue
				}
				require.Equal(t, want.Data, got.Data, "%s: the frame that leaves", what)
				if tt.decision == model.Reply { // by the device of a test run
					require.Equal(t, []int{uplink.Ifindex, loIfindex}, []int{want.Decision.Ifindex, got.Decision.Ifindex}, what)
					want.Decision.Ifindex = loIfindex
				}
				require.Equal(t, want.Decision, got.Decision, what)
			}
			if tt.decision == model.Forward {
				require.Equal(t, FlowKnown, known.Decision.Flow, what)
			}
		}
	}
}

// What XDP programs return: enum xdp_action of linux/bpf.h.
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpTx       = 3
	xdpRedirect = 4

	loIfindex = 1
)

type xdpProgram struct {
	prog  *ebpf.Program
	notes *ebpf.Map
}

// loadXDP loads the program of bpf/xdp.bpf.c beside a datapath whose tables it has.
func loadXDP(t *testing.T, d *Datapath) *xdpProgram {
	t.Helper()
	spec, err := bpf.LoadXdp()
	require.NoError(t, err)
	shared := map[string]*ebpf.Map{}
	for name, m := range d.maps {
		if spec.Maps[name] != nil {
			spec.Maps[name].MaxEntries = m.MaxEntries()
			shared[name] = m
		}
	}
	require.Contains(t, shared, bpf.XdpMapServices)
	loaded, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	require.NoError(t, err)
	t.Cleanup(loaded.Close)
	return &xdpProgram{loaded.Programs[bpf.XdpProgXdpFromDevice], loaded.Maps[bpf.XdpMapXdpNotes]}
}

func (x *xdpProgram) run(t *testing.T, d *Datapath, frame []byte) Ran {
	t.Helper()
	runtime.LockOSThread() // the record is of one CPU
	defer runtime.UnlockOSThread()
	blank := make([]bpf.XdpXdpNote, ebpf.MustPossibleCPU())
	require.NoError(t, x.notes.Put(uint32(0), blank))
	opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+growth)}
	returned, err := x.prog.Run(&opts)
	require.NoError(t, err)
	ran := Ran{Data: opts.DataOut, Returned: Return{KindXDP, int32(returned)}}
	var notes []bpf.XdpXdpNote
	require.NoError(t, x.notes.Lookup(uint32(0), &notes))
	for _, note := range notes {
		if note.Words[0] != 0 {
			ran.Decision, err = d.decision(model.FromDevice, loIfindex, &note.Words)
			require.NoError(t, err)
		}
	}
	mark := ran.Decision.marked(model.FromDevice, 0) // a frame has none
	require.Nil(t, ran.Decision.contradiction(model.FromDevice, true, ran.Returned, 0, mark))
	return ran
}

// cut takes the last ten octets off, of which six may be padding.
func cut(frame []byte) []byte { return frame[:len(frame)-10] }

func emptyConntrack(t *testing.T, d *Datapath) {
	t.Helper()
	for _, name := range []string{bpf.ContainerMapCtAnswered, bpf.ContainerMapCtUnanswered} {
		require.NoError(t, empty[flowKey](d.maps[name]))
	}
}
