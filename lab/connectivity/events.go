// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// events are what Weir's agents say of new flows, and of packets that they do not let
// through. The nil events are of a cluster without agents.
type events struct {
	agents map[string]*corev1.Pod // by node

	mu   sync.Mutex
	kept []told // oldest first
}

// told is an event as it came.
type told struct {
	at    time.Time // here
	event event
	text  json.RawMessage
}

// event is what 'weir monitor -o json' says of a packet, as far as it is asked here.
type event struct {
	Hook        string `json:"hook"`
	Endpoint    string `json:"endpoint"`
	Verdict     string `json:"verdict"`
	Reason      string `json:"reason"`
	Protocol    string `json:"protocol"`
	Source      string `json:"source"`      // with its port
	Target      string `json:"destination"` // with its port
	SourceAfter string `json:"translatedSource"`
	TargetAfter string `json:"translatedDestination"`
	Policy      string `json:"policy"`
	Place       string `json:"place"` // file:line of the datapath's source
}

// Agents are the pods of Weir's agents.
type Agents struct {
	Namespace, Selector string
}

// keptEvents is how many are kept, of all nodes.
const keptEvents = 1 << 14

// watchEvents listens to all agents until ctx ends. One that cannot be listened to is
// told of, and ends no run.
func (r *Run) watchEvents(ctx context.Context) *events {
	if !r.Features.Weir {
		return nil
	}
	pods, err := r.session.Kube().CoreV1().Pods(r.options.Agents.Namespace).List(ctx, metav1.ListOptions{LabelSelector: r.options.Agents.Selector})
	if err != nil {
		r.options.Say(fmt.Sprintf("flows and drops are not told: list the agents: %v", err))
		return nil
	}
	all := &events{agents: map[string]*corev1.Pod{}}
	for i := range pods.Items {
		p := &pods.Items[i]
		all.agents[p.Spec.NodeName] = p
		go func() {
			in, out := io.Pipe()
			go func() {
				err := r.session.Exec(ctx, p.Namespace, p.Name, p.Spec.Containers[0].Name, out, "/weir", "monitor", "-o", "json")
				if ctx.Err() == nil {
					r.options.Say(fmt.Sprintf("flows and drops of node %s are not told any more: %v", p.Spec.NodeName, err))
				}
				out.CloseWithError(err)
			}()
			all.read(in)
		}()
	}
	return all
}

// read takes lines of JSON until they end.
func (d *events) read(in io.Reader) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		t := told{at: time.Now(), text: slices.Clone(lines.Bytes())}
		if json.Unmarshal(t.text, &t.event) != nil || t.event.Verdict == "" {
			continue
		}
		d.mu.Lock()
		if len(d.kept) >= keptEvents {
			d.kept = slices.Delete(d.kept, 0, keptEvents/2)
		}
		d.kept = append(d.kept, t)
		d.mu.Unlock()
	}
}

// agent is the pod of a node's agent; nil: it has none.
func (d *events) agent(node string) *corev1.Pod {
	if d == nil {
		return nil
	}
	return d.agents[node]
}

// straggle is how long an agent may take to tell of a packet.
const straggle = 300 * time.Millisecond

// settle waits until agents have told of what was.
func (d *events) settle(ctx context.Context) {
	if d == nil {
		return
	}
	select {
	case <-time.After(straggle):
	case <-ctx.Done():
	}
}

// mostDrops is how many an action is given.
const mostDrops = 8

// drops gives those since a time that were of a deed's packets, each once. Of what a
// policy has to deny they are what is asked for, and none is given.
func (d *events) drops(of *deed, since time.Time) (lines []string) {
	if d == nil || of.Denied {
		return nil
	}
	for _, k := range d.since(since) {
		if k.event.Verdict != "drop" || !k.concerns(of) {
			continue
		}
		if line := k.line(); !slices.Contains(lines, line) && len(lines) < mostDrops {
			lines = append(lines, line)
		}
	}
	return lines
}

// mostEvents is how many a failed action's evidence has.
const mostEvents = 100

// between gives the events since a time that were of packets between one of some
// addresses and one of others, as the agents wrote them.
func (d *events) between(since time.Time, protocol string, some, others []netip.Addr) (texts []json.RawMessage) {
	if d == nil {
		return nil
	}
	for _, k := range d.since(since) {
		if len(texts) < mostEvents && strings.HasPrefix(k.event.Protocol, protocol) && k.has(some) && k.has(others) {
			texts = append(texts, k.text)
		}
	}
	return texts
}

func (d *events) since(t time.Time) []told {
	d.mu.Lock()
	defer d.mu.Unlock()
	first, _ := slices.BinarySearchFunc(d.kept, t, func(k told, t time.Time) int { return k.at.Compare(t) })
	return slices.Clone(d.kept[first:])
}

// addresses are those that an event has, translated ones too.
func (k *told) addresses() (all []netip.Addr) {
	e := &k.event
	for _, text := range []string{e.Source, e.Target, e.SourceAfter, e.TargetAfter} {
		if at, err := netip.ParseAddrPort(text); err == nil {
			all = append(all, at.Addr())
		}
	}
	return all
}

func (k *told) has(some []netip.Addr) bool {
	return slices.ContainsFunc(k.addresses(), func(a netip.Addr) bool { return slices.Contains(some, a) })
}

// concerns says whether a packet may be a deed's: of its protocol, from or to who
// asked, and from or to what was asked, or any server where a service leads to several.
func (k *told) concerns(of *deed) bool {
	if !strings.HasPrefix(k.event.Protocol, of.Verb.packets()) {
		return false
	}
	return k.has([]netip.Addr{of.from.Address(of.Family.is6())}) && (len(of.By) > 0 || k.has([]netip.Addr{of.to.Addr()}))
}

// way is where a packet went, in words.
func (e *event) way() string {
	text := fmt.Sprintf("%s of %s: %s %s > %s", e.Hook, e.Endpoint, e.Protocol, e.Source, e.Target)
	if e.SourceAfter != "" || e.TargetAfter != "" {
		text += " as " + cmp.Or(e.SourceAfter, e.Source) + " > " + cmp.Or(e.TargetAfter, e.Target)
	}
	return text
}

func (k *told) line() string {
	e := &k.event
	text := fmt.Sprintf("%s at %s of %s: %s %s > %s", e.Reason, e.Hook, e.Endpoint, e.Protocol, e.Source, e.Target)
	if e.Policy != "" {
		text += " by " + e.Policy
	}
	if e.Place != "" {
		text += " (" + e.Place + ")"
	}
	return text
}
