// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/phase"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Listen serves a port.
func (p *play) Listen(ctx context.Context, v *syntax.Listen) error {
	answer := func(message []byte) []byte { return message }
	if v.Answer != nil {
		fixed := []byte(*v.Answer)
		answer = func([]byte) []byte { return fixed }
	}
	listen := func() error { return p.world.Listen(ctx, p.hostName(v.Host), v.Protocol, v.Port, answer) }
	if w, ok := p.world.(interface {
		ListenFor(context.Context, string, model.Protocol, uint16, *string) error
	}); ok {
		listen = func() error { return w.ListenFor(ctx, p.hostName(v.Host), v.Protocol, v.Port, v.Answer) }
	}
	if err := listen(); err != nil {
		return labError(err)
	}
	p.listening[listener{v.Host, v.Protocol, v.Port}] = true
	return nil
}

// listener is a port that a host of the script serves.
type listener struct {
	host     string
	protocol model.Protocol
	port     uint16
}

// serves says whether somebody answers what arrives as t.
func (p *play) serves(t model.Tuple) bool {
	host := p.hostAt(t.Dst)
	if holders := p.leads.Holders(t.Dst); len(holders) > 0 {
		host = holders[0]
	}
	h, ok := p.hosts[host]
	switch {
	case !ok || h.Silent:
		return false
	case t.Protocol == model.ProtocolTCP || t.Protocol == model.ProtocolUDP:
		return p.listening[listener{host, t.Protocol, t.Dport}]
	}
	return true
}

// failed names how an exchange failed; empty for an error of the lab.
func failed(err error) syntax.Failure {
	switch {
	case errors.Is(err, lab.ErrRefused):
		return syntax.Refused
	case errors.Is(err, lab.ErrTimeout):
		return syntax.Timeout
	case errors.Is(err, lab.ErrReset):
		return syntax.Reset
	}
	return ""
}

func outcomeOf(err error) string {
	if err == nil {
		return answered
	}
	return map[syntax.Failure]string{syntax.Refused: refusal, syntax.Timeout: timeout, syntax.Reset: brokenOff}[failed(err)]
}

// wait bounds an exchange: one that is to find no answer is given less time.
func (p *play) wait(ctx context.Context, fails syntax.Failure) (context.Context, context.CancelFunc) {
	if fails == syntax.Timeout {
		end := phase.Start(ctx, phase.Waits)
		limited, cancel := newStill(ctx, silence, p.stretch(silencePatience))
		return limited, func() { cancel(); end() }
	}
	patience := exchangePatience
	if p.kind == syntax.Cluster {
		patience = attemptPatience
	}
	return context.WithTimeout(ctx, p.stretch(patience))
}

// ended compares how an exchange ended with how the scenario wants it.
func ended(what string, want syntax.Failure, err error) error {
	got := failed(err)
	switch {
	case err != nil && got == "":
		return labError(err)
	case want == got:
		return nil
	case want == "":
		return mismatch("%s failed", what).with("outcome", answered, outcomeOf(err)+": "+err.Error())
	case err == nil:
		return mismatch("%s was answered", what).with("outcome", string(want), answered)
	}
	return mismatch("%s failed in another way", what).with("outcome", string(want), string(got)+": "+err.Error())
}

// Connect opens an exchange.
func (p *play) Connect(ctx context.Context, v *syntax.Connect) error {
	to, err := p.addressIn(v.To.Name)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("connect %s -> %s", v.From, v.To)
	message := "hello from " + v.From
	if v.Says != nil {
		message = *v.Says
	}
	limited, cancel := p.wait(ctx, v.Fails)
	defer cancel()
	at := netip.AddrPortFrom(to, v.To.Port)
	conn, err := p.dial(limited, v, at)
	// What a TCP handshake shows, a UDP socket shows by its first message.
	talk := v.As == "" || v.Says != nil || v.Hears != nil || v.To.Protocol == model.ProtocolUDP && (v.Via != "" || v.Seen != "" || v.Fails != "")
	var answer []byte
	if err == nil && talk {
		answer, err = conn.Exchange(limited, []byte(message))
	}
	if talk || v.To.Protocol == model.ProtocolTCP {
		p.compareExchange(v, conn, to, err)
	}
	defer func() {
		if conn != nil && p.conns[v.As] == nil {
			conn.Close()
		}
	}()
	if err := ended(what, v.Fails, err); err != nil || v.Fails != "" {
		return err
	}
	if err := p.served(what, v, conn, answer, talk); err != nil {
		return err
	}
	if err := speaksTo(what, conn, at); err != nil {
		return err
	}
	if v.As != "" {
		p.conns[v.As] = &conversation{conn, v.From, at}
	}
	return nil
}

func (p *play) dial(ctx context.Context, v *syntax.Connect, to netip.AddrPort) (lab.Conn, error) {
	host, as := p.hostName(v.From), lab.Manner{Unconnected: v.Unconnected, Mapped: v.Mapped}
	if as == (lab.Manner{}) {
		return p.world.Dial(ctx, host, v.To.Protocol, v.Sport, to)
	}
	w, ok := p.world.(interface {
		DialAs(context.Context, string, model.Protocol, uint16, netip.AddrPort, lab.Manner) (lab.Conn, error)
	})
	if !ok {
		return nil, labError(errors.New("this world has no sockets that are unconnected or mapped"))
	}
	return w.DialAs(ctx, host, v.To.Protocol, v.Sport, to, as)
}

// speaksTo checks that a host is told no other address than the one that it
// dialled, whatever became of its packets.
func speaksTo(what string, conn lab.Conn, at netip.AddrPort) error {
	if got := conn.Remote(); got != at {
		return mismatch("%s was answered, but the client sees another server", what).with("server as the client sees it", at.String(), got.String())
	}
	return nil
}

// served checks who answered, what, and whom he saw.
func (p *play) served(what string, v *syntax.Connect, conn lab.Conn, answer []byte, talk bool) error {
	m := mismatch("%s was answered, but not as expected", what)
	if v.Via != "" && conn.Server() != p.hostName(v.Via) {
		m.with("server", v.Via, p.scriptName(conn.Server()))
	}
	if v.Seen != "" {
		want, err := p.addressIn(v.Seen)
		if err != nil {
			return err
		}
		if got := conn.Peer().Addr(); got != want {
			m.with("client as the server sees it", want.String()+" ("+v.Seen+")", got.String()+" ("+p.hostAt(got)+")")
		}
	}
	if v.Hears != nil && string(answer) != *v.Hears {
		m.with("answer", fmt.Sprintf("%q", *v.Hears), fmt.Sprintf("%q", answer))
	}
	if talk && v.Hears == nil && len(answer) == 0 {
		m.with("answer", "some octets", "none")
	}
	if len(m.Details) > 0 {
		return m
	}
	return nil
}

// compareExchange asks the model about an exchange of real sockets. World
// prog asks it about every frame instead.
func (p *play) compareExchange(v *syntax.Connect, conn lab.Conn, to netip.Addr, err error) {
	if p.kind == syntax.Prog || p.kind == syntax.Cluster || err != nil && failed(err) == "" {
		return
	}
	from, _ := p.address(v.From, p.family)
	in := intent{outcome: outcomeOf(err), serves: p.serves, next: p.nextHook}
	local := netip.AddrPortFrom(from, v.Sport)
	if conn != nil {
		local = conn.Local()
		if host, ok := p.hosts[p.scriptName(conn.Server())]; ok {
			in.server, in.peer = addressOf(host, p.family), conn.Peer()
			if p.leads.Has(host.Name, to) {
				in.server = to
			}
		}
	}
	port := local.Port()
	if port == 0 && len(p.leads.Towards(to)) > 1 {
		return // the port was the world's choice, and has chosen the way
	}
	if port == 0 {
		port = 65000 // the world chose, and the exchange failed
	}
	t := model.Tuple{Src: from, Dst: to, Sport: port, Dport: v.To.Port, Protocol: v.To.Protocol}
	if p.Sockets && p.HasNode(v.From) {
		if t, ok := p.judge.led(in, v.From, t); ok {
			p.exchangeFrom(in, v.From, t)
		}
		return
	}
	p.exchangeFrom(in, v.From, t)
}

func (p *play) exchangeFrom(in intent, from string, t model.Tuple) {
	packet, err := opening(t)
	if err != nil {
		return // of two families: it never left
	}
	if at, ok := p.firstHook(from, packet); ok {
		p.judge.exchange(in, at, t)
	}
}

func addressOf(h lab.Host, family syntax.Family) netip.Addr {
	for _, a := range h.Addresses {
		if a.Is6() == family.V6() {
			return a
		}
	}
	return netip.Addr{}
}

// Say sends a message on an open exchange.
func (p *play) Say(ctx context.Context, v *syntax.Say) error {
	c := p.conns[v.Conn]
	if c == nil {
		return mismatch("exchange %s is not open", v.Conn)
	}
	limited, cancel := p.wait(ctx, v.Fails)
	defer cancel()
	answer, err := c.conn.Exchange(limited, []byte(v.Text))
	if err := ended("say "+v.Conn, v.Fails, err); err != nil || v.Fails != "" {
		return err
	}
	if v.Hears != nil && string(answer) != *v.Hears {
		return mismatch("%s heard something else", v.Conn).with("answer", fmt.Sprintf("%q", *v.Hears), fmt.Sprintf("%q", answer))
	}
	return speaksTo("say "+v.Conn, c.conn, c.to)
}

// Close ends an exchange.
func (p *play) Close(_ context.Context, v *syntax.Close) error {
	c := p.conns[v.Conn]
	if c == nil {
		return mismatch("exchange %s is not open", v.Conn)
	}
	delete(p.conns, v.Conn)
	if err := c.conn.Close(); err != nil {
		return labError(err)
	}
	return nil
}

// Ping sends an echo request.
func (p *play) Ping(ctx context.Context, v *syntax.Ping) error {
	to, err := p.addressIn(v.To)
	if err != nil {
		return err
	}
	limited, cancel := p.wait(ctx, v.Fails)
	defer cancel()
	err = p.world.Ping(limited, p.hostName(v.From), to)
	if p.kind == syntax.Netns && (err == nil || failed(err) != "") {
		from, _ := p.address(v.From, p.family)
		t := model.Tuple{Src: from, Dst: to, Sport: uint16(time.Now().UnixNano()), Protocol: model.ProtocolICMP}
		if p.family.V6() {
			t.Protocol = model.ProtocolICMPv6
		}
		p.exchangeFrom(intent{outcome: outcomeOf(err), serves: p.serves, next: p.nextHook}, v.From, t)
	}
	return ended(fmt.Sprintf("ping %s -> %s", v.From, v.To), v.Fails, err)
}
