// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

func TestWhatAProgramDoesIsHeldAgainstItsNote(t *testing.T) {
	const others = 0x4042
	drop := Decision{Action: model.Drop, Reason: model.ReasonPolicyEgress}
	local := Decision{Action: model.Forward, Out: model.OutLocal, Ifindex: 3}
	host := Decision{Action: model.Forward, Out: model.OutHost}
	device := Decision{Action: model.Forward, Out: model.OutDevice, Ifindex: 2}
	asItIs := Decision{Action: model.Forward, Out: model.OutDevice, Ifindex: 2, AsItIs: true}
	answer := Decision{Action: model.Reply, Out: model.OutSelf}
	const pass, shot, redirect = 0, 2, 7
	for name, c := range map[string]struct {
		hook     model.Hook
		decision Decision
		unnoted  bool
		returned Return
		in, out  uint32
		want     string // of the contradiction
	}{
		"a drop that drops":                 {model.FromContainer, drop, false, Return{KindTC, shot}, others, others, ""},
		"a drop that passes":                {model.FromContainer, drop, false, Return{KindTC, pass}, others, others, "from-container contradicts itself: noted drop, returned pass"},
		"a drop that marks":                 {model.FromContainer, drop, false, Return{KindTC, shot}, others, others | markDecided, "from-container contradicts itself: noted drop, left the mark 0x1004042 in the place of 0x4042"},
		"to a pod by redirect":              {model.FromContainer, local, false, Return{KindTC, redirect}, others, others | markDecided, ""},
		"to a pod, dropped":                 {model.FromContainer, local, false, Return{KindTC, shot}, others, others | markDecided, "from-container contradicts itself: noted forward out local, returned drop"},
		"to a pod without a mark":           {model.FromContainer, local, false, Return{KindTC, redirect}, others, others, "from-container contradicts itself: noted forward out local, left the mark 0x4042 in the place of 0x1004042"},
		"to a pod, the mark of others gone": {model.FromContainer, local, false, Return{KindTC, redirect}, others, markDecided, "from-container contradicts itself: noted forward out local, left the mark 0x1000000 in the place of 0x1004042"},
		"to the node":                       {model.FromContainer, host, false, Return{KindTC, pass}, others, others | markDecided, ""},
		"to the node by redirect":           {model.FromContainer, host, false, Return{KindTC, redirect}, others, others | markDecided, "from-container contradicts itself: noted forward out host, returned redirect"},
		"by a device":                       {model.ToDevice, device, false, Return{KindTC, redirect}, others, others | markDecided, ""},
		"by a device, as it is":             {model.ToDevice, asItIs, false, Return{KindTC, pass}, others, others, ""},
		"as it is, but redirected":          {model.ToDevice, asItIs, false, Return{KindTC, redirect}, others, others, "to-device contradicts itself: noted forward out device, returned redirect"},
		"from a pod, as it is":              {model.FromContainer, Decision{Action: model.Forward, Out: model.OutLocal, Ifindex: 3, AsItIs: true}, false, Return{KindTC, pass}, others, others, "from-container contradicts itself: noted forward out local, and as it is: true"},
		"to a pod, but not as it is":        {model.ToContainer, local, false, Return{KindTC, redirect}, others, others | markDecided, "to-container contradicts itself: noted forward out local, and as it is: false"},
		"from the node to its pod":          {model.ToDevice, local, false, Return{KindTC, redirect}, others, others | markDelivered, ""},
		"an answer":                         {model.FromContainer, answer, false, Return{KindTC, redirect}, others, others | markAnswer, ""},
		"an answer that goes on":            {model.FromContainer, answer, false, Return{KindTC, pass}, others, others | markAnswer, "from-container contradicts itself: noted reply, returned pass"},
		"a number that is no action":        {model.FromContainer, drop, false, Return{KindTC, 1}, others, others, "from-container contradicts itself: noted drop, returned 1"},
		"an answer in XDP":                  {model.FromDevice, answer, false, Return{KindXDP, 3}, others, others | markAnswer, ""},
		"a refusal of a socket":             {Socket, drop, false, Return{KindSocket, 0}, 0, 0, ""},
		"a refusal that goes on":            {Socket, drop, false, Return{KindSocket, 1}, 0, 0, "socket contradicts itself: noted drop, returned pass"},
		"judged before, and silent":         {model.ToDevice, asItIs, true, Return{KindTC, pass}, others | markDecided, others | markDecided, ""},
		"judged before, and dropped":        {model.ToDevice, asItIs, true, Return{KindTC, shot}, markDecided, markDecided, "to-device contradicts itself: noted nothing, for a packet that is judged already, returned drop"},
		"judged before, and judged again":   {model.ToDevice, asItIs, false, Return{KindTC, pass}, markDecided, markDecided, "to-device contradicts itself: noted forward out device, though the mark 0x1000000 says that the packet is judged already"},
		"silent about what nobody judged":   {model.ToDevice, asItIs, true, Return{KindTC, pass}, others, others, "to-device contradicts itself: noted nothing, though no mark says that the packet is judged already (0x4042); returned pass"},
		"a mark that is not for this hook":  {model.ToContainer, local, true, Return{KindTC, pass}, markDecided, markDecided, "to-container contradicts itself: noted nothing, though no mark says that the packet is judged already (0x1000000); returned pass"},
	} {
		got := c.decision.contradiction(c.hook, !c.unnoted, c.returned, c.in, c.out)
		if c.want == "" {
			require.Nil(t, got, name)
		} else {
			require.EqualError(t, got, c.want, name)
		}
	}
}

func TestADropThatPassesIsAnErrorOfRunAndOfARunner(t *testing.T) {
	opts := small()
	opts.Edit = func(spec *ebpf.CollectionSpec) error {
		prog := spec.Programs[bpf.ContainerProgFromContainer]
		if prog == nil {
			return nil
		}
		function := ""
		for i := range prog.Instructions {
			ins := &prog.Instructions[i]
			if ins.Symbol() != "" {
				function = ins.Symbol()
			}
			if function == "drop" && ins.OpCode.Class().IsALU() && ins.OpCode.ALUOp() == asm.Mov && ins.OpCode.Source() == asm.ImmSource && ins.Constant == 2 {
				ins.Constant = 0 // TC_ACT_SHOT is TC_ACT_OK
			}
		}
		return nil
	}
	d := openDatapath(t, opts)
	n := newNode(t)
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	frame := append(make([]byte, 12), 0x12, 0x34) // a type that nobody knows
	var c *Contradiction
	ran, err := d.Run(model.FromContainer, Frame{Data: frame, Ifindex: n.client.Ifindex})
	require.ErrorAs(t, err, &c)
	require.EqualError(t, c, "from-container contradicts itself: noted drop, returned pass")
	require.Equal(t, model.Drop, ran.Decision.Action)
	obeyed := ran.Obeyed(model.FromContainer, n.client.Ifindex)
	require.Equal(t, Decision{Action: model.Forward, Out: model.OutHost, AsItIs: true}, obeyed, "the kernel lets it pass")
	_, err = d.Runner(model.FromContainer).Run(frame, n.client.Ifindex, 0)
	require.ErrorAs(t, err, &c)
}
