// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// drops are what Weir's agents say of packets that they do not let through. The nil
// drops are of a cluster without agents.
type drops struct {
	mu   sync.Mutex
	kept []drop // oldest first
}

type drop struct {
	at    time.Time // here
	event event
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

// keptDrops is how many are kept, of all nodes.
const keptDrops = 4096

// watchDrops listens to all agents until ctx ends. One that cannot be listened to is
// told of, and ends no run.
func (r *Run) watchDrops(ctx context.Context) *drops {
	if !r.Features.Weir {
		return nil
	}
	pods, err := r.session.Kube().CoreV1().Pods(r.options.Agents.Namespace).List(ctx, metav1.ListOptions{LabelSelector: r.options.Agents.Selector})
	if err != nil {
		r.options.Say(fmt.Sprintf("drops are not told: list the agents: %v", err))
		return nil
	}
	d := new(drops)
	for i := range pods.Items {
		p := &pods.Items[i]
		go func() {
			in, out := io.Pipe()
			go func() {
				err := r.session.Exec(ctx, p.Namespace, p.Name, p.Spec.Containers[0].Name, out, "/weir", "monitor", "--drops", "-o", "json")
				if ctx.Err() == nil {
					r.options.Say(fmt.Sprintf("drops of node %s are not told any more: %v", p.Spec.NodeName, err))
				}
				out.CloseWithError(err)
			}()
			d.read(in)
		}()
	}
	return d
}

// read takes lines of JSON until they end.
func (d *drops) read(in io.Reader) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Verdict != "drop" {
			continue
		}
		d.mu.Lock()
		if len(d.kept) >= keptDrops {
			d.kept = slices.Delete(d.kept, 0, keptDrops/2)
		}
		d.kept = append(d.kept, drop{time.Now(), e})
		d.mu.Unlock()
	}
}

// straggle is how long an agent may take to tell of a drop.
const straggle = 300 * time.Millisecond

// mostDrops is how many an action is given.
const mostDrops = 8

// about gives the drops since a time that were of a deed's packets, each once.
func (d *drops) about(ctx context.Context, of *deed, since time.Time) (lines []string) {
	if d == nil || of.Denied {
		return nil
	}
	select {
	case <-time.After(straggle):
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.kept {
		if k := &d.kept[i]; k.at.After(since) && k.concerns(of) {
			if line := k.line(); !slices.Contains(lines, line) && len(lines) < mostDrops {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// concerns says whether a packet may be a deed's: of its protocol, from or to who
// asked, and from or to what was asked, or any server where a service leads to several.
func (k *drop) concerns(of *deed) bool {
	e, own := &k.event, of.from.Address(of.Family.is6())
	if !strings.HasPrefix(e.Protocol, of.Verb.packets()) {
		return false
	}
	asker, asked := false, len(of.By) > 0
	for _, text := range []string{e.Source, e.Target, e.SourceAfter, e.TargetAfter} {
		if at, err := netip.ParseAddrPort(text); err == nil {
			asker = asker || at.Addr() == own
			asked = asked || at.Addr() == of.to.Addr()
		}
	}
	return asker && asked
}

func (k *drop) line() string {
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
