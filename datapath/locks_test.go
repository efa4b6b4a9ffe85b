// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// barrier stops who reaches a step of a datapath, until the test lets him go on.
type barrier struct {
	at       atomic.Pointer[string]
	reached  chan struct{}
	released chan struct{}
}

func newBarrier() *barrier {
	return &barrier{reached: make(chan struct{}), released: make(chan struct{})}
}

func (b *barrier) step(name string) {
	if at := b.at.Load(); at != nil && *at == name && b.at.CompareAndSwap(at, nil) {
		b.reached <- struct{}{}
		<-b.released
	}
}

// hold runs do until it reaches a step, and gives what lets it go on and waits for
// its end.
func (b *barrier) hold(t *testing.T, step string, do func() error) (release func()) {
	t.Helper()
	ended := make(chan error, 1)
	b.at.Store(&step)
	go func() { ended <- do() }()
	select {
	case <-b.reached:
	case err := <-ended:
		require.FailNow(t, "it has ended without the step", "%s: %v", step, err)
	}
	return func() {
		b.released <- struct{}{}
		require.NoError(t, <-ended)
	}
}

// readAll asks for all that people and metrics are told of.
func readAll(t *testing.T, d *Datapath) {
	t.Helper()
	_, err := d.Events()
	require.NoError(t, err)
	_, err = d.Flows()
	require.NoError(t, err)
	_, err = d.Counters()
	require.NoError(t, err)
	_, err = d.Services()
	require.NoError(t, err)
	_, err = d.NATs()
	require.NoError(t, err)
	_, err = d.TableSizes()
	require.NoError(t, err)
	d.Spent()
}

// without is a state that lacks its last endpoint.
func without(state *model.State) *model.State {
	less := state.Clone()
	less.Endpoints = less.Endpoints[:len(less.Endpoints)-1]
	return less
}

// A collector that is in the middle of its walk keeps nobody waiting. Were one of
// these to wait for it, the test would not end.
func TestNobodyWaitsForTheCollector(t *testing.T) {
	n := newNode(t)
	b := newBarrier()
	opts := small()
	opts.Step = b.step
	d := openDatapath(t, opts)
	_, err := d.Apply(without(n.state))
	require.NoError(t, err)
	release := b.hold(t, "collect flows", func() error { _, err := d.Collect(); return err })
	readAll(t, d)
	require.NoError(t, d.Connect(n.state, model.Key{Namespace: "default", Name: "web"}))
	establish(t, d, n, 1000)
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.NoError(t, d.Advance(time.Second))
	readAll(t, d)
	release()
}

// At whatever step an Apply is stopped, a pod is connected beside it, events are
// read, flows collected, and all is told that is asked for. The pod stays when that
// Apply goes on, though its state does not know of the pod.
func TestAPodIsConnectedWhileAnApplyIsStopped(t *testing.T) {
	n := newNode(t)
	withUplink(t, n)
	b := newBarrier()
	opts := small()
	opts.Step = b.step
	d, unstopped := openDatapath(t, opts), openDatapath(t, small())
	for _, whole := range []bool{true, false} {
		for _, step := range []string{
			"write rule sets", "write slot_rows", "write backends", "write services", "write tunnel_endpoints", "write ipcache_cidrs", "write ipcache", "write endpoints", "turn the epoch", "end",
		} {
			t.Log(step, whole)
			testConnectedBeside(t, n, b, d, step, whole)
			_, err := unstopped.Apply(without(n.state))
			require.NoError(t, err)
			require.Equal(t, packetsView(t, unstopped), packetsView(t, d))
			require.NoError(t, d.Reset())
			require.NoError(t, unstopped.Reset())
		}
	}
}

func testConnectedBeside(t *testing.T, n *node, b *barrier, d *Datapath, step string, whole bool) {
	t.Helper()
	old := without(n.state)
	_, err := d.Apply(old)
	require.NoError(t, err)
	other := *old
	other.Services = model.ListOf(old.Services.Slice()...)
	other.Services.At(0).MaglevSize = 251
	other.RuleSets = append(slices.Clone(old.RuleSets), model.RuleSet{Key: "more", Rules: []model.Rule{{Direction: model.Egress}}})
	other.AnswersPings = whole // which has all of the tables written

	// Before the pod is there, its address is nobody's.
	there, there6 := tcpFrame(t, "10.0.0.1", "10.0.0.2", 50000, 8080, syn), tcpFrame(t, "fd00::1", "fd00::2", 50000, 8080, syn)
	run(t, d, n.client, there, model.Forward)

	release := b.hold(t, step, func() error { _, err := d.Apply(&other); return err })
	full := n.state.Clone()
	full.Endpoints[1].RuleSet = "new"
	full.RuleSets = append(full.RuleSets, model.RuleSet{Key: "new", Rules: []model.Rule{
		{Direction: model.Egress}, {Direction: model.Ingress, Peer: clientIdentity, Protocol: model.ProtocolTCP, Port: 8080, PortBits: 16},
	}})
	require.NoError(t, d.Connect(full, model.Key{Namespace: "default", Name: "web"}))
	readAll(t, d)
	collected, err := d.Collect()
	require.NoError(t, err)
	require.Positive(t, collected.Unanswered)
	reached := func(when string) {
		for _, frame := range [][]byte{there, there6} {
			ran := run(t, d, n.client, frame, model.Forward)
			require.Equal(t, model.OutLocal, ran.Decision.Out, when)
			require.Equal(t, n.web.Ifindex, ran.Decision.Ifindex, when)
		}
		run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.0.0.2", 50001, 9090, syn), model.Drop)
		run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 50002, 80, syn), model.Forward)
		run(t, d, n.web, tcpFrame(t, "10.0.0.2", "10.0.0.1", 8080, 50000, synAck), model.Forward)
	}
	reached("while the Apply is stopped")
	release()
	reached("behind it")

	// States that do not know it yet, and those that do.
	again := other
	again.Services = model.ListOf(old.Services.Slice()...)
	_, err = d.Apply(&again)
	require.NoError(t, err)
	reached("behind another state that does not know it")
	_, err = d.Apply(full.Clone())
	require.NoError(t, err)
	reached("behind a state that knows it")
	require.Empty(t, d.ahead)
	_, err = d.Apply(old.Clone())
	require.NoError(t, err)
	ran, err := d.Run(model.FromContainer, Frame{Data: there, Ifindex: n.client.Ifindex})
	require.NoError(t, err)
	require.NotEqual(t, model.OutLocal, ran.Decision.Out, "a state that has known it says that it is gone")
	requireMirror(t, d.ipcache)
	requireMirror(t, d.endpoints)
}

// An address that another pod has still is not taken from it.
func TestAPodIsNotConnectedWithTheAddressOfAnother(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(without(n.state))
	require.NoError(t, err)
	taken := n.state.Clone()
	taken.Endpoints[1].IPv4 = addr("10.0.0.1")
	require.ErrorIs(t, d.Connect(taken, model.Key{Namespace: "default", Name: "web"}), ErrTaken)
	require.ErrorContains(t, d.Connect(taken, model.Key{Namespace: "default", Name: "other"}), "the state does not have it")
	run(t, d, n.web, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1000, 80, syn), model.Drop)
}

// Rules that nobody has are deleted, and written again under another number when
// somebody has them: whoever was about to have the former ones has these.
func TestAPodThatIsConnectedHasRulesThatAreThere(t *testing.T) {
	n := newNode(t)
	first, last := &n.state.Endpoints[0], &n.state.Endpoints[len(n.state.Endpoints)-1]
	last.RuleSet = first.RuleSet
	nobody := n.state.Clone()
	nobody.Endpoints = nil
	b := newBarrier()
	opts := small()
	opts.Step = b.step
	d := openDatapath(t, opts)
	_, err := d.Apply(nobody)
	require.NoError(t, err)
	release := b.hold(t, "connect: write addresses", func() error { return d.Connect(n.state, last.Name) })
	_, err = d.Apply(nobody.Clone()) // the rules are swept
	require.NoError(t, err)
	_, err = d.Apply(without(n.state)) // and come again
	require.NoError(t, err)
	release()
	row := d.endpoints.have[uint32(last.Device.Ifindex)][d.half()]
	require.Contains(t, d.rules.have, row.Set)
}

// A pod that was connected beside a state, and that nobody wants any more, goes with the
// next Apply, though its device may be there and the state be the one in force.
func TestAPodThatIsGivenUpIsTakenOut(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	d.opts.Attach = true // its device is looked for, and stays
	t.Cleanup(func() { d.opts.Attach = false })
	state := without(n.state)
	_, err := d.Apply(state)
	require.NoError(t, err)
	before := packetsView(t, d)
	ifindex := uint32(n.web.Ifindex)
	require.False(t, d.Disconnect(n.web.Ifindex))
	require.NoError(t, d.Connect(n.state, model.Key{Namespace: "default", Name: "web"}))
	_, err = d.Apply(state)
	require.NoError(t, err)
	require.NotZero(t, d.endpoints.have[ifindex][d.half()])
	require.True(t, d.Disconnect(n.web.Ifindex))
	_, err = d.Apply(state)
	require.NoError(t, err)
	require.False(t, d.Disconnect(n.web.Ifindex))
	require.Equal(t, before, packetsView(t, d))
	_, err = d.Apply(state)
	require.NoError(t, err)
	require.NotContains(t, d.endpoints.have, ifindex)
	requireMirror(t, d.ipcache)
	requireMirror(t, d.endpoints)
}

// Whoever of Apply and Connect writes the same rules first, they are there once.
func TestRulesThatTwoWriteAreThereOnce(t *testing.T) {
	n := newNode(t)
	first, last := &n.state.Endpoints[0], &n.state.Endpoints[len(n.state.Endpoints)-1]
	first.RuleSet, last.RuleSet = "new", "new"
	n.state.RuleSets = append(n.state.RuleSets, model.RuleSet{Key: "new", Rules: []model.Rule{{Direction: model.Egress}}})
	connect := func(d *Datapath) error { return d.Connect(n.state, last.Name) }
	apply := func(d *Datapath) error { _, err := d.Apply(without(n.state)); return err }
	for step, tt := range map[string]struct{ stopped, other func(*Datapath) error }{
		"write rule sets":          {apply, connect},
		"connect: write rule sets": {connect, apply},
	} {
		t.Run(step, func(t *testing.T) {
			b := newBarrier()
			opts := small()
			opts.Step = b.step
			d := openDatapath(t, opts)
			release := b.hold(t, step, func() error { return tt.stopped(d) })
			require.NoError(t, tt.other(d))
			release()
			d.rules.look()
			require.NoError(t, d.sweepRules(d.half()))
			row := func(ep *model.Endpoint) endpointHalf { return d.endpoints.have[uint32(ep.Device.Ifindex)][d.half()] }
			require.Equal(t, row(first).Set, row(last).Set)
			require.Equal(t, map[string]uint32{"new": row(first).Set}, d.rules.sets)
			require.Len(t, d.rules.have, 1)
			entries := 0
			require.NoError(t, readBatches(d.rules.m, func(ruleKey, ruleValue) { entries++ }))
			require.Equal(t, d.rules.used, entries)
		})
	}
}
