// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/routes"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/model"
)

// goneAttempts is how often it is begun anew because a device went meanwhile.
const goneAttempts = 10

// reconcile makes the datapath, the node's routes and devices what the cluster
// and the endpoints want now.
func (a *Agent) reconcile() (err error) {
	a.reconciling.Lock()
	defer a.reconciling.Unlock()
	for attempt := range goneAttempts {
		err = a.reconcileOnce(attempt == goneAttempts-1)
		if !errors.Is(err, unix.ENODEV) {
			break
		}
	}
	return err
}

// reconcileOnce gives up where a device has gone since it looked, without
// telling of it, unless this is the last time.
func (a *Agent) reconcileOnce(last bool) error {
	p, err := a.prepare()
	if p == nil {
		return err
	}
	if err == nil {
		err = a.enforce(p)
	}
	if errors.Is(err, unix.ENODEV) && !last {
		a.stale.Store(true)
		return err
	}
	a.report("apply", err)
	a.publish(p, err)
	return err
}

// enforce puts a pass into force. Pods are connected meanwhile.
func (a *Agent) enforce(p *pass) error {
	a.setApplying(true)
	defer a.setApplying(false)
	if err := a.apply(p); err != nil {
		return err
	}
	a.wireHost(p)
	if last := &a.enforced; last.checks != p.checked || last.looks != p.looks { // a port may have been another's
		last.checks = p.checked
		a.report("answer health checks", a.health.Sync(p.checks))
	}
	a.enforced.looks = p.looks
	return nil
}

// isInForce is whether the datapath has a pass's state. States that were made one
// from the other share what is the same in them.
func (a *Agent) isInForce(p *pass) bool {
	if a.state == nil || a.state == p.state {
		return a.state != nil
	}
	x, y, anew := a.state, p.state, a.enforced.whole != p.whole
	return x.AnswersPings == y.AnswersPings && reflect.DeepEqual(x.Node, y.Node) &&
		samePieces(x.Addresses.Pieces(), y.Addresses.Pieces(), anew) && samePieces(x.Services.Pieces(), y.Services.Pieces(), anew) &&
		sameList(x.TunnelEndpoints, y.TunnelEndpoints, anew) && sameList(x.ServiceAddresses, y.ServiceAddresses, anew) && sameList(x.Loopback, y.Loopback, anew) &&
		// These are made again with all that they are of.
		sameList(x.Endpoints, y.Endpoints, true) && sameList(x.RuleSets, y.RuleSets, true)
}

// sameList is whether two lists are one. Where they may be equal without, their
// elements are looked at.
func sameList[E any](a, b []E, look bool) bool {
	if len(a) != len(b) {
		return false
	}
	return unsafe.SliceData(a) == unsafe.SliceData(b) || look && reflect.DeepEqual(a, b)
}

// samePieces is whether two lists are one, piece by piece.
func samePieces[E any](a, b [][]E, look bool) bool {
	return slices.EqualFunc(a, b, func(x, y []E) bool { return sameList(x, y, look) })
}

// apply changes the datapath if there is anything to change: every change has
// all flows judged again.
func (a *Agent) apply(p *pass) error {
	left := a.left.Swap(false)
	if a.isInForce(p) && !left {
		a.enforced.whole = p.whole
		return nil
	}
	began := time.Now()
	change, err := a.datapath.Apply(p.state)
	if err != nil && left {
		a.left.Store(true)
	}
	if a.log.Enabled(context.Background(), slog.LevelDebug) {
		a.log.Debug("applied", "change", fmt.Sprintf("%+v", change), "seconds", time.Since(began).Seconds(), "error", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && change == (datapath.Change{}) {
		a.status.Apply.Failed++
		return err
	}
	a.state, a.enforced.whole = p.state, p.whole
	a.status.Apply.Count++
	a.status.Apply.Last, a.status.Apply.Seconds, a.status.Apply.Epoch = time.Now(), time.Since(began).Seconds(), change.Epoch
	return err
}

func (a *Agent) setApplying(now bool) {
	a.mu.Lock()
	a.applying = now
	a.mu.Unlock()
	if a.isLate() {
		nudge(a.waiting)
	}
}

// wireHost connects endpoints that the datapath has, and routes to them and to
// other nodes.
func (a *Agent) wireHost(p *pass) {
	last, state := &a.enforced, p.state
	if last.wired != nil && last.owns == p.owns && sameList(last.wired.Endpoints, state.Endpoints, false) &&
		sameList(last.wired.Peers, state.Peers, false) && slices.Equal(last.wired.Node.Addresses, state.Node.Addresses) {
		return
	}
	var errs []error
	var wanted []routes.Route
	connected := map[api.Attachment]inForce{}
	for i := range state.Endpoints {
		in := &state.Endpoints[i]
		e := p.ours[in.Name]
		if err := a.bringUp(p.local, &e); err != nil {
			errs = append(errs, fmt.Errorf("connect Pod %s: %w", in.Name, err))
			continue
		}
		connected[api.Attachment{ContainerID: e.ContainerID, IfName: e.IfName}] = inForce{e.Ifindex, in.Identity, in.RuleSet}
		wanted = append(wanted, routesToPod(state, p.local, &e)...)
	}
	a.report("bring up devices", errors.Join(errs...))
	for _, prefix := range a.store.Pool.Prefixes() {
		// Another plugin's bridge may have a route to all of it.
		wanted = append(wanted, routes.Route{To: prefix, Behind: true})
	}
	wanted = append(wanted, routesToNodes(state.Peers)...)
	if last.wired == nil || last.looks != p.looks || !slices.Equal(wanted, last.routes) {
		err := routes.Sync(wanted, a.isAhead)
		a.report("route", err)
		errs = append(errs, err)
	}
	last.owns, last.routes = p.owns, wanted
	if last.wired = state; errors.Join(errs...) != nil {
		last.wired = nil // it is tried again
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	for at, in := range a.ahead {
		if _, known := connected[at]; known {
			delete(a.ahead, at)
		} else if a.inForce[at] == in { // else its device is not up yet
			connected[at] = in
		}
	}
	a.inForce = connected
}

// routesToPod lead to an endpoint.
func routesToPod(state *model.State, local *localNode, e *api.Endpoint) []routes.Route {
	source := func(to netip.Addr) netip.Addr {
		for _, addr := range state.Node.Addresses {
			if addr.Is4() == to.Is4() && local.owns(addr) {
				return addr
			}
		}
		return netip.Addr{}
	}
	var wanted []routes.Route
	for _, addr := range e.Addresses {
		wanted = append(wanted, routes.Route{To: netip.PrefixFrom(addr, addr.BitLen()), Device: e.Ifindex, Source: source(addr), Behind: e.TakenOver})
	}
	return wanted
}

// routesToNodes lead to the pods of other nodes, as far as their Nodes are
// believed. Two Nodes may have one address while the machine of one is gone.
func routesToNodes(peers []model.Peer) []routes.Route {
	var wanted []routes.Route
	for _, peer := range peers {
		for _, prefix := range peer.PodCIDRs {
			for _, addr := range peer.Addresses {
				if addr.Is4() == prefix.Addr().Is4() {
					wanted = append(wanted, routes.Route{To: prefix, Via: addr})
					break
				}
			}
		}
	}
	return wanted
}

// publish tells who waits what is in force now. Who reads that the agent is ready
// finds the runtime told of the plugin.
func (a *Agent) publish(p *pass, err error) {
	prefixes := a.store.Pool.Prefixes()
	a.mu.Lock()
	was := a.status
	notReady := a.notReady(p.self, prefixes, err)
	a.mu.Unlock()
	refused, ignored := a.tell(was.Refused, p.refused, p.began), a.tell(was.Ignored, p.ignored, p.began)
	if notReady == "" && (!was.Ready || a.enforced.told != p.looks) {
		a.enforced.told = p.looks
		a.report("write the network's configuration", a.writeConflist())
	}

	a.mu.Lock()
	s := &a.status
	s.Refused, s.Ignored, s.PodCIDRs, s.MTU = refused, ignored, prefixes, p.local.mtu
	s.Uplinks = nil
	for _, u := range p.local.uplinks {
		s.Uplinks = append(s.Uplinks, u.Name)
	}
	s.Objects, s.Policies = p.objects, p.policies
	s.Endpoints.Ready = len(a.inForce)
	if a.state != nil {
		s.Services = a.state.Services.Len()
	}
	s.NotReady, s.Ready = notReady, notReady == ""
	now := *s
	close(a.turned)
	a.turned = make(chan struct{})
	a.mu.Unlock()

	if now.Ready && !was.Ready {
		a.log.Info("ready", "podCIDRs", now.PodCIDRs, "uplinks", now.Uplinks, "mtu", now.MTU)
	}
}

// tell tells of what was not told before, and gives all of it in its order.
func (a *Agent) tell(before, now []api.Refused, began time.Time) []api.Refused {
	type said struct {
		object         model.Ref
		field, problem string
	}
	since := map[said]time.Time{}
	for _, r := range before {
		since[said{r.Object, r.Field, r.Problem}] = r.Since
	}
	for i := range now {
		r := &now[i]
		known, old := since[said{r.Object, r.Field, r.Problem}]
		r.Since = known
		if !old {
			r.Since = began
			a.log.Warn(whatOf(r), "object", r.Object.String(), "field", r.Field, "problem", r.Problem)
			if a.opts.Events != nil {
				a.opts.Events(*r)
			}
		}
	}
	slices.SortStableFunc(now, func(x, y api.Refused) int {
		return cmp.Or(x.Object.Compare(y.Object), cmp.Compare(x.Field, y.Field))
	})
	return now
}

func whatOf(r *api.Refused) string {
	switch {
	case r.Ignored:
		return "a field is ignored"
	case r.FieldOnly:
		return "a claim is lost"
	}
	return "an object is refused"
}

// notReady says why pods cannot be connected, or nothing. It is called with mu held.
func (a *Agent) notReady(self *corev1.Node, prefixes []netip.Prefix, err error) string {
	switch {
	case a.state == nil && err != nil:
		return fmt.Sprintf("the cluster's state is not in force: %v", err)
	case self == nil:
		return fmt.Sprintf("Node %s: there is none of that name: use the name that 'kubectl get nodes' shows", a.opts.Node)
	case len(prefixes) == 0:
		return fmt.Sprintf("Node %s: spec.podCIDRs: is empty: start kube-controller-manager with --allocate-node-cidrs and --cluster-cidr", a.opts.Node)
	case a.state == nil:
		return "the cluster's state is not in force yet"
	}
	return ""
}
