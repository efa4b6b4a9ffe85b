// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/kube"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/scenarios/syntax"
)

// World cluster: whether a scenario can be there, and its runs.

var worldsLine = regexp.MustCompile(`(?m)^worlds .*$`)

// WhyNot says why a scenario does not run in world cluster: what in it no live
// cluster has, or what the file itself says; empty where it runs, or could.
func (s *Scenario) WhyNot() string {
	if why := s.Except[syntax.Cluster]; why != "" {
		return why
	}
	if !slices.Contains(s.Worlds, syntax.Cluster) {
		source := worldsLine.ReplaceAllString(s.Source, "worlds cluster")
		if _, err := syntax.Parse(s.Path, []byte(source)); err != nil {
			return firstMistake(err)
		}
	}
	if err := kube.Movable(s.topology, s.objects, slices.Collect(maps.Values(s.attached))...); err != nil {
		return err.Error()
	}
	return ""
}

// firstMistake is the first of an error that joins several, without its place.
func firstMistake(err error) string {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		err = many.Unwrap()[0]
	}
	var at *syntax.Error
	if errors.As(err, &at) {
		err = at.Err
	}
	return firstLine(err.Error())
}

// lacksIn says what a cluster lacks of a scenario; empty: nothing.
func (s *Scenario) lacksIn(c *kube.Session, family syntax.Family) string {
	switch {
	case !c.Weir && differences()[s.Name] != "":
		return "Kubernetes' own network differs: " + differences()[s.Name]
	case len(s.Nodes) > c.Nodes():
		return fmt.Sprintf("needs %d nodes, and %d of the cluster are ready", len(s.Nodes), c.Nodes())
	case !c.HasFamily(family.V6()):
		return "the cluster's pods have no " + string(family) + " addresses"
	case s.asksOutside() && !c.HasOutside(family.V6()):
		return "this machine is no neighbour of the cluster's nodes by " + string(family) + ", so that there is no host outside"
	case (s.dialsPodsFromOutside() || s.meetsOutside() && !c.Masquerade) && !c.LeadsOutside(family.V6()):
		return "from this machine pods' " + string(family) + " addresses do not lead to their nodes: add routes to the nodes' podCIDRs"
	case s.seesMasquerade() && s.Options.Masquerade != c.Masquerade:
		return map[bool]string{true: "the cluster masquerades what leaves it", false: "the cluster does not masquerade what leaves it"}[c.Masquerade]
	}
	return ""
}

// policiesLack says why a scenario's policies do not hold in a cluster; empty: they
// do, or it has none.
func (s *Scenario) policiesLack(ctx context.Context, c *kube.Session) (string, error) {
	some := false
	for _, file := range s.attached {
		if len(file.CiliumNetworkPolicies) > 0 && !c.HasKind("CiliumNetworkPolicy") {
			return "the cluster has no kind CiliumNetworkPolicy", nil
		}
		some = some || len(file.NetworkPolicies)+len(file.CiliumNetworkPolicies) > 0
	}
	if !some {
		return "", nil
	}
	hold, err := c.EnforcesPolicies(ctx)
	if err != nil || hold {
		return "", err
	}
	return "the cluster's network enforces no policies", nil
}

// differences are scenarios that do not hold in the network that is Kubernetes' own,
// with the reason: docs/reference.md has all of it.
var differences = sync.OnceValue(func() map[string]string {
	all := map[string]string{}
	data, err := embedded.ReadFile("differences")
	if err != nil {
		return all
	}
	for line := range strings.Lines(string(data)) {
		name, why, ok := strings.Cut(strings.TrimSpace(line), " ")
		if ok && !strings.HasPrefix(name, "#") {
			all[name] = strings.TrimSpace(why)
		}
	}
	return all
})

// asksOutside says whether a host outside has a part in it.
func (s *Scenario) asksOutside() bool {
	for i := range s.Steps {
		for _, host := range hostsOf(s.Steps[i].Verb) {
			if slices.Contains(s.Outside, host) {
				return true
			}
		}
	}
	return false
}

// seesMasquerade says whether it looks at the address by which pods are seen
// outside.
func (s *Scenario) seesMasquerade() bool {
	for i := range s.Steps {
		c, ok := s.Steps[i].Verb.(*syntax.Connect)
		if !ok {
			continue
		}
		outside := slices.Contains(s.Outside, c.To.Name) || slices.Contains(s.Outside, c.Via)
		if c.Seen != "" && outside && !slices.Contains(s.Outside, c.From) {
			return true
		}
	}
	return false
}

// dialsPodsFromOutside says whether a host outside speaks to a pod by its own
// address.
func (s *Scenario) dialsPodsFromOutside() bool {
	for i := range s.Steps {
		from, to := "", ""
		switch v := s.Steps[i].Verb.(type) {
		case *syntax.Connect:
			from, to = v.From, v.To.Name
		case *syntax.Ping:
			from, to = v.From, v.To
		}
		pod := slices.ContainsFunc(s.Pods, func(p syntax.Pod) bool { return p.HostName() == to })
		if pod && slices.Contains(s.Outside, from) {
			return true
		}
	}
	return false
}

// meetsOutside says whether pods speak to hosts outside.
func (s *Scenario) meetsOutside() bool {
	for i := range s.Steps {
		switch v := s.Steps[i].Verb.(type) {
		case *syntax.Connect:
			if !slices.Contains(s.Outside, v.From) && (slices.Contains(s.Outside, v.To.Name) || slices.Contains(s.Outside, v.Via)) {
				return true
			}
		case *syntax.Ping:
			if !slices.Contains(s.Outside, v.From) && slices.Contains(s.Outside, v.To) {
				return true
			}
		}
	}
	return false
}

// uses are what it takes of what the worlds of a cluster share.
func (s *Scenario) uses() (u kube.Uses) {
	for i := range s.Steps {
		actor := ""
		switch v := s.Steps[i].Verb.(type) {
		case *syntax.Listen:
			actor = v.Host
			u.Ports = u.Ports || slices.Contains(s.Outside, actor) || s.HasNode(actor)
		case *syntax.Connect:
			actor = v.From
		case *syntax.Ping:
			actor = v.From
		}
		if s.HasNode(actor) && !slices.Contains(u.Nodes, actor) {
			u.Nodes = append(u.Nodes, actor)
		}
	}
	return u
}

// hostsOf are those that a verb of whole exchanges names.
func hostsOf(v syntax.Verb) []string {
	switch v := v.(type) {
	case *syntax.Connect:
		return []string{v.From, v.To.Name, v.Via, v.Seen}
	case *syntax.Ping:
		return []string{v.From, v.To}
	case *syntax.Listen:
		return []string{v.Host}
	}
	return nil
}

// at is the scenario where a world has put it.
func (s *Scenario) at(t lab.Topology) *Scenario {
	there := *s
	there.topology = t
	there.hosts = map[string]lab.Host{}
	for name, h := range s.hosts {
		for _, placed := range slices.Concat(t.Nodes, t.Pods, t.Outside) {
			if placed.Name == h.Name {
				there.hosts[name] = placed
			}
		}
	}
	return &there
}

// reconciler is a world whose datapaths are told of objects by somebody else.
type reconciler interface {
	Reconcile(context.Context, *manifest.Objects) error
}

// inCluster gives the world of a scenario: that of its other family, if there was
// one just before.
func (w *worker) inCluster(ctx context.Context, one run) (*kube.World, error) {
	if w.live != nil && w.lives == one.scenario {
		return w.live, w.live.Clear(ctx)
	}
	if err := w.leaveCluster(); err != nil {
		return nil, err
	}
	if w.Cluster == nil {
		return nil, errors.New("no cluster is named")
	}
	world, err := w.Cluster.New(ctx, one.scenario.topology, one.scenario.objects, one.scenario.uses())
	if err != nil {
		return nil, err
	}
	w.live, w.lives = world, one.scenario
	return world, nil
}

// leaveCluster removes the world that is kept for another family.
func (w *worker) leaveCluster() error {
	if w.live == nil {
		return nil
	}
	world := w.live
	w.live, w.lives = nil, nil
	return world.Close()
}

// together puts the runs that share a world into one group: in a cluster those of a
// scenario, which differ by family.
func together(runs []run) (groups [][]run) {
	for i, one := range runs {
		if i > 0 && one.world == syntax.Cluster && runs[i-1].world == syntax.Cluster && runs[i-1].scenario == one.scenario {
			groups[len(groups)-1] = append(groups[len(groups)-1], one)
			continue
		}
		groups = append(groups, []run{one})
	}
	return groups
}
