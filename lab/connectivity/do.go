// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/kube"
	"github.com/weirnet/weir/lab/probe"
	"github.com/weirnet/weir/model"
)

// How long things may take.
const (
	patience = 5 * time.Second  // of what has to succeed
	silence  = time.Second      // of what has to fail
	bulky    = 20 * time.Second // of what moves many octets, or is measured
)

// How much is moved, and how often.
const (
	transferOctets = 8 << 20
	rateOctets     = 64 << 20
	roundCount     = 1000
	stickCount     = 12
	spreadCount    = 60 // that one of two servers is never chosen happens once in 2^59
)

// deed is an action while it is done.
type deed struct {
	*Action
	bed    *bed
	from   *kube.Member
	to     netip.AddrPort
	lacks  string             // why there is nothing to ask
	values map[string]float64 // measured
	rest   <-chan struct{}    // closed when all others are done
}

// prepare finds who asks and what is asked.
func (b *bed) prepare(a *Action) (d *deed, err error) {
	d = &deed{Action: a, bed: b, values: map[string]float64{}}
	if d.from, err = b.member(a.From); err != nil {
		return d, err
	}
	d.to, d.lacks, err = b.at(a)
	return d, err
}

// String says who asks what.
func (d *deed) String() string {
	what := d.To.Name
	switch d.To.Kind {
	case ToPod, ToNode, ToOutside:
	default:
		what = strings.TrimSpace(string(d.To.Kind) + " " + what)
	}
	if what == "" {
		what = string(d.To.Kind)
	}
	from := d.From
	if d.from != nil {
		if at := d.from.Address(d.Family.is6()); at.IsValid() {
			from += " " + at.String()
		}
	}
	text := from + " -> " + what
	if d.to.Addr().IsValid() {
		text += " " + d.to.String()
	}
	return text + ", " + string(d.Verb)
}

// limit is how long an action may take.
func (d *deed) limit() time.Duration {
	switch {
	case d.Denied:
		return silence
	case d.Verb == Transfer, d.Verb == Latency, d.Verb == Rate, d.Verb == Spread, d.Verb == Stick:
		return bulky
	}
	return patience
}

// do does it once, and judges how it ended.
func (d *deed) do(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, d.limit())
	defer cancel()
	if d.Verb == Hold {
		return d.hold(ctx)
	}
	err := d.verb(limited)
	if !d.Denied {
		return err
	}
	switch {
	case err == nil:
		return errors.New("it was answered, and the policy denies it")
	case errors.Is(err, lab.ErrTimeout), errors.Is(err, lab.ErrRefused):
		return nil
	}
	return err
}

func (d *deed) verb(ctx context.Context) error {
	switch d.Verb {
	case TCP, UDP:
		_, err := d.talk(ctx)
		return err
	case ICMP:
		return d.from.Ping(ctx, d.to.Addr())
	case FullICMP, ManyICMP:
		return d.ping(ctx)
	case Spread, Stick:
		return d.repeat(ctx)
	case Transfer, Latency, Rate, Full, Fragments:
		return d.converse(ctx)
	case AskUDP, AskTCP:
		_, err := d.ask(ctx, d.Verb == AskTCP)
		return err
	}
	return fmt.Errorf("the verb %s is unknown", d.Verb)
}

// dial opens a conversation; that of a name with the first of its addresses.
func (d *deed) dial(ctx context.Context) (*probe.Conn, error) {
	to := d.to
	if d.To.Kind == ToName {
		all, err := d.ask(ctx, false)
		if err != nil {
			return nil, err
		}
		to = netip.AddrPortFrom(all[int(time.Now().UnixNano())%len(all)], mainPort)
	}
	c, err := d.from.Dial(ctx, probe.Dial{Protocol: d.Verb.protocol(), To: to})
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", to, err)
	}
	return c, nil
}

// talk is a conversation of one message. It gives the server's name.
func (d *deed) talk(ctx context.Context) (server string, err error) {
	c, err := d.dial(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close() // said is what was to be said
	if _, err := c.Exchange(ctx, []byte("hello")); err != nil {
		return "", err
	}
	return c.Server(), d.judge(c)
}

// judge checks who answered, and whom it saw.
func (d *deed) judge(c *probe.Conn) error {
	may := d.By
	if len(may) == 0 {
		may = []string{d.To.Name}
		if d.To.Kind == ToOutside {
			may = []string{Outside}
		}
	}
	if !slices.Contains(may, c.Server()) {
		return fmt.Errorf("%s answered, and it was to be %s", c.Server(), strings.Join(may, " or "))
	}
	own := d.from.Address(d.Family.is6())
	if d.Seen && c.Peer().Addr() != own {
		return fmt.Errorf("%s saw %s, and it was to see the client's own address %s", c.Server(), c.Peer().Addr(), own)
	}
	return nil
}

// repeat talks until every server has answered, or so often that one would have been
// another.
func (d *deed) repeat(ctx context.Context) error {
	answered := map[string]int{}
	want := d.bed.present(d.By)
	for range map[Verb]int{Spread: spreadCount, Stick: stickCount}[d.Verb] {
		server, err := d.talk(ctx)
		if err != nil {
			return err
		}
		answered[server]++
		if d.Verb == Stick && len(answered) > 1 {
			return fmt.Errorf("several servers answered one client: %v", answered)
		}
		if d.Verb == Spread && len(answered) == len(want) {
			return nil
		}
	}
	if d.Verb == Stick {
		return nil
	}
	return fmt.Errorf("of the servers %s only these answered: %v", strings.Join(want, ", "), answered)
}

// present are those probes that there are.
func (b *bed) present(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, err := b.member(name)
		return err != nil
	})
}

// Octets of headers around a datagram's text: those of IPv4 (RFC 791) or IPv6 (RFC
// 8200), and of UDP or ICMP, which are equal.
const aroundText4, aroundText6 = 20 + 8, 40 + 8

// room is the text that a packet of the path has room for.
func (d *deed) room(mtu int) int {
	if d.Family.is6() {
		return mtu - aroundText6
	}
	return mtu - aroundText4
}

// converse is a conversation of what the verb says.
func (d *deed) converse(ctx context.Context) error {
	c, err := d.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	d.values["mtu"] = float64(c.MTU())
	switch d.Verb {
	case Transfer:
		_, _, err = c.Carry(ctx, transferOctets, transferOctets)
	case Full:
		err = c.Fill(ctx, d.room(c.MTU()))
	case Fragments:
		err = c.Fill(ctx, 3*c.MTU())
	case Latency:
		return d.latency(ctx, c)
	case Rate:
		return d.rate(ctx, c)
	}
	if err != nil {
		return err
	}
	return d.judge(c)
}

// ping sends as much as the path takes in one packet, or in three.
func (d *deed) ping(ctx context.Context) error {
	c, err := d.from.Dial(ctx, probe.Dial{Protocol: model.ProtocolUDP, To: d.to})
	if err != nil {
		return err
	}
	defer c.Close()
	d.values["mtu"] = float64(c.MTU())
	size := d.room(c.MTU())
	if d.Verb == ManyICMP {
		size = 2*c.MTU() + 1
	}
	return d.from.PingOf(ctx, d.to.Addr(), size)
}

// ask asks the resolver, and checks what it says.
func (d *deed) ask(ctx context.Context, byTCP bool) ([]netip.Addr, error) {
	got, err := d.from.Lookup(ctx, probe.Lookup{Name: d.bed.name(d.To.Name), TCP: byTCP, V6: d.Family.is6()})
	if err != nil {
		return nil, err
	}
	if want := d.bed.named(d.To.Name, d.Family); !slices.Equal(got, want) {
		return nil, fmt.Errorf("%s has the addresses %v, and the resolver says %v", d.bed.name(d.To.Name), want, got)
	}
	return got, nil
}

// hold talks first and last, with all other actions between.
func (d *deed) hold(ctx context.Context) error {
	first, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := d.dial(first)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := d.judge(c); err != nil {
		return err
	}
	select {
	case <-d.rest:
	case <-ctx.Done():
		return ctx.Err()
	}
	last, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := c.Exchange(last, []byte("still there")); err != nil {
		return fmt.Errorf("after all other actions: %w", err)
	}
	return nil
}

// latency is that of small messages by TCP: the median and its spread.
func (d *deed) latency(ctx context.Context, c *probe.Conn) error {
	times, err := c.Rounds(ctx, roundCount)
	if err != nil {
		return err
	}
	if len(times) == 0 {
		return errors.New("no round was measured")
	}
	for name, part := range map[string]int{"p10": 10, "p50": 50, "p90": 90, "p99": 99} {
		d.values[name+"Microseconds"] = float64(times[len(times)*part/100].Nanoseconds()) / 1e3
	}
	return d.judge(c)
}

// rateCount is how often throughput is measured.
const rateCount = 5

// rate is how much a second carries by one TCP connection, to the server: the median
// of several times, the least and the most.
func (d *deed) rate(ctx context.Context, c *probe.Conn) error {
	var rates []float64
	for range rateCount {
		there, _, err := c.Carry(ctx, rateOctets, 0)
		if err != nil {
			return err
		}
		rates = append(rates, rateOctets*8/1e6/there.Seconds())
	}
	slices.Sort(rates)
	d.values["leastMbps"], d.values["medianMbps"], d.values["mostMbps"] = rates[0], rates[rateCount/2], rates[rateCount-1]
	return d.judge(c)
}
