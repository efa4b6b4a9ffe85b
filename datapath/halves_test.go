// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// judgedPacket is what programs keep of a datagram to a service, led to a backend.
func judgedPacket() *bpf.ContainerScratch {
	addr := func(text string) tableAddr { return encodeAddr(netip.MustParseAddr(text)) }
	client, service, backend := addr("fd10::1:2"), addr("fd96::3:4"), addr("fd10::5:6")
	left := &bpf.ContainerScratch{}
	left.Pkt.Key = flowKey{
		Src: client, Dst: service, Sport: encodePort(5000), Dport: encodePort(53),
		Proto: uint8(model.ProtocolUDP), Family: uint8(bpf.ContainerFamilyFAMILY_IPV6), Hook: hookNumbers[model.FromContainer], Ifindex: 3,
	}
	left.Pkt.Now, left.Pkt.Epoch = 77, 5
	left.Open = flowValue{
		LastSeen: 77, Epoch: 5, Service: 9, Origin: 8, Src: client, Dst: backend, Sport: encodePort(5000), Dport: encodePort(5353),
		OtherIfindex: 4, OtherHook: hookNumbers[model.FromContainer], Flags: flowTranslated,
		AddrDiff: change(words(&service), words(&backend)), PortDiff: change([]uint16{encodePort(53)}, []uint16{encodePort(5353)}),
	}
	left.Reply = flowValue{
		LastSeen: 77, Epoch: 5, Service: 9, Src: service, Dst: client, Sport: encodePort(53), Dport: encodePort(5000),
		OtherIfindex: 3, OtherHook: hookNumbers[model.FromContainer], Flags: flowReply | flowTranslated,
		AddrDiff: change(words(&backend), words(&service)), PortDiff: change([]uint16{encodePort(5353)}, []uint16{encodePort(53)}),
	}
	left.ReplyKey = flowKey{
		Src: backend, Dst: client, Sport: encodePort(5353), Dport: encodePort(5000),
		Proto: uint8(model.ProtocolUDP), Family: uint8(bpf.ContainerFamilyFAMILY_IPV6), Hook: hookNumbers[model.FromContainer], Ifindex: 4,
	}
	return left
}

func TestHalvesOfAFlowFollowFromItsPacket(t *testing.T) {
	require.Empty(t, halves(judgedPacket()))
	for name, c := range map[string]struct {
		wrong func(*bpf.ContainerScratch)
		want  string
	}{
		"not marked as translated":      {func(s *bpf.ContainerScratch) { s.Open.Flags = 0 }, "the way there is marked as translated: false, and is: true"},
		"marked, and is not translated": {func(s *bpf.ContainerScratch) { s.Pkt.Key.Dst, s.Pkt.Key.Dport = s.Open.Dst, s.Open.Dport }, "the way there is marked as translated: true, and is: false"},
		"a difference of another":       {func(s *bpf.ContainerScratch) { s.Open.AddrDiff++ }, "the way there keeps differences of"},
		"ports without a difference":    {func(s *bpf.ContainerScratch) { s.Reply.PortDiff = 0 }, "the way back keeps differences of"},
		"a key of another hook":         {func(s *bpf.ContainerScratch) { s.ReplyKey.Hook++ }, "the key of the way back: hook is 1, and has to be 0"},
		"a word of another":             {func(s *bpf.ContainerScratch) { s.Reply.Src.W[1]++ }, "the way back keeps differences of"},
		"another service":               {func(s *bpf.ContainerScratch) { s.Reply.Service++ }, "the way back: service is 10, and has to be 9"},
		"a flag that nobody set":        {func(s *bpf.ContainerScratch) { s.Open.Flags |= 128 }, "the way there: flags is 0x84, and has to be 0x4"},
		"flags of TCP":                  {func(s *bpf.ContainerScratch) { s.Open.Seen = 2 }, "the way there: seen is 0x2, and has to be 0x0"},
		"another time":                  {func(s *bpf.ContainerScratch) { s.Open.LastSeen-- }, "the way there: last_seen is 76, and has to be 77"},
	} {
		t.Run(name, func(t *testing.T) {
			left := judgedPacket()
			c.wrong(left)
			faults := halves(left)
			require.NotEmpty(t, faults)
			require.Contains(t, faults[0], c.want)
		})
	}
}

func TestAJudgementStoresWhatItMade(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	w := d.Witness()
	frame := tcpFrame(t, "10.0.0.1", "10.0.0.2", 40000, 8080, syn)
	_, _, faults, err := w.Run(model.FromContainer, frame, n.client.Ifindex, 0, 0)
	require.NoError(t, err)
	require.Empty(t, faults)
	left, err := w.scratch()
	require.NoError(t, err)
	require.True(t, judged(left, &w.dirt.scratch.values[0]))

	made := left.Open
	left.Open.Dport++
	faults, err = w.stored(left)
	require.NoError(t, err)
	require.Len(t, faults, 1)
	require.Contains(t, faults[0], "the way there in its table: dport is ")
	left.Open = made
	left.ReplyKey.Ifindex++
	faults, err = w.stored(left)
	require.NoError(t, err)
	require.Equal(t, []string{"the way back is in no table"}, faults)
}
