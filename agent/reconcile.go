// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/routes"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
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

// pass is what one look at the node and the cluster gives.
type pass struct {
	began            time.Time
	objs             *manifest.Objects
	local            *localNode
	ours             map[string]api.Endpoint
	state            *model.State
	refused, ignored []api.Refused
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
	a.wireHost(p.state, p.local, p.ours)
	a.report("answer health checks", a.health.Sync(compile.HealthChecks(p.objs, a.opts.Node)))
	return nil
}

// prepare looks at the node, and compiles. Without a pass the node cannot be looked at.
func (a *Agent) prepare() (*pass, error) {
	a.compiling.Lock()
	defer a.compiling.Unlock()
	p := &pass{began: time.Now()}
	local, err := a.look()
	a.report("look at the node's devices", err)
	if err != nil {
		return nil, err
	}
	objs, unread := a.source.Objects()
	self := objs.Nodes[a.opts.Node]
	a.usePrefixes(self)
	local.setUplinks(&a.opts.Config, self)
	a.store.Pool.Exclude(a.spare(objs.Pods, local))
	a.forgetTakenOver(local)
	strangers := a.takeOver(objs.Pods, local)
	p.objs, p.local, p.ours = objs, local, overlay(objs, a.opts.Node, a.store.List())
	p.state, p.refused, p.ignored, err = a.compile(objs, unread, local, p.ours)
	p.refused = append(p.refused, strangers...)
	return p, err
}

// compile leaves out objects that cannot be kept. Pods that a policy selects
// which is left out are isolated.
func (a *Agent) compile(objs *manifest.Objects, unread []manifest.Unread, local *localNode, ours map[string]api.Endpoint) (state *model.State, refused, ignored []api.Refused, err error) {
	inputs := model.Local{
		Addresses: local.own(), Devices: local.devices(ours), Gateways: model.Gateways(), Uplinks: local.uplinks,
		Options: a.opts.Config.Options(), Identities: a.identities, Budgets: a.budgets,
	}
	a.shareIdentities()
	state, left, warnings, err := a.compiler.Keep(objs, unread, a.opts.Node, inputs)
	for i := range left {
		refused = append(refused, refusedOf(&left[i]))
	}
	if err != nil {
		return nil, refused, nil, err // it is not about an object
	}
	a.useIdentities()
	lost, ignored := fieldsOf(warnings, objs)
	return state, append(refused, lost...), ignored, nil
}

func refusedOf(r *compile.Refusal) api.Refused {
	problem := r.Problem
	if r.Follows != "" {
		problem += "; " + r.Follows
	}
	return api.Refused{Object: r.Object, UID: string(r.UID), Field: r.Field, Problem: problem, Table: string(r.Table)}
}

// fieldsOf are fields of objects that are left out alone.
func fieldsOf(warnings []compile.Warning, objs *manifest.Objects) (lost, ignored []api.Refused) {
	for _, w := range warnings {
		if !w.Lost && !w.Ignored {
			continue
		}
		r := api.Refused{Object: w.Object, Field: w.Field, Problem: w.Problem, FieldOnly: true, Ignored: w.Ignored}
		if obj := objs.Find(w.Object); obj != nil {
			r.UID = string(obj.GetUID())
		}
		if w.Lost {
			lost = append(lost, r)
		} else {
			ignored = append(ignored, r)
		}
	}
	return lost, ignored
}

// sameTables is whether two states are one to the datapath.
func sameTables(a, b *model.State) bool {
	x, y := *a, *b
	x.Peers, y.Peers = nil, nil
	return reflect.DeepEqual(x, y)
}

// apply changes the datapath if there is anything to change: every change has
// all flows judged again.
func (a *Agent) apply(p *pass) error {
	if a.state != nil && sameTables(a.state, p.state) {
		return nil
	}
	began := time.Now()
	change, err := a.datapath.Apply(p.state)
	a.log.Debug("applied", "change", fmt.Sprintf("%+v", change), "seconds", time.Since(began).Seconds(), "error", err)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && change == (datapath.Change{}) {
		a.status.Apply.Failed++
		return err
	}
	a.state = p.state
	a.status.Apply.Count++
	a.status.Apply.Last, a.status.Apply.Seconds, a.status.Apply.Epoch = time.Now(), time.Since(began).Seconds(), change.Epoch
	return err
}

func (a *Agent) setApplying(now bool) {
	a.mu.Lock()
	a.applying = now
	a.mu.Unlock()
	if now {
		nudge(a.waiting)
	}
}

// wireHost connects endpoints that the datapath has, and routes to them and to
// other nodes.
func (a *Agent) wireHost(state *model.State, local *localNode, ours map[string]api.Endpoint) {
	var errs []error
	var wanted []routes.Route
	connected := map[api.Attachment]inForce{}
	for i := range state.Endpoints {
		in := &state.Endpoints[i]
		e := ours[in.Name.String()]
		if err := a.bringUp(local, &e); err != nil {
			errs = append(errs, fmt.Errorf("connect Pod %s: %w", in.Name, err))
			continue
		}
		connected[api.Attachment{ContainerID: e.ContainerID, IfName: e.IfName}] = inForce{e.Ifindex, in.Identity, in.RuleSet}
		wanted = append(wanted, routesToPod(state, local, &e)...)
	}
	a.report("bring up devices", errors.Join(errs...))
	for _, prefix := range a.store.Pool.Prefixes() {
		// Another plugin's bridge may have a route to all of it.
		wanted = append(wanted, routes.Route{To: prefix, Behind: true})
	}
	wanted = append(wanted, routesToNodes(state.Peers)...)
	a.report("route", routes.Sync(wanted, a.isAhead))

	a.mu.Lock()
	defer a.mu.Unlock()
	for at, in := range a.ahead {
		if _, known := connected[at]; known {
			delete(a.ahead, at)
		} else {
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

// publish tells who waits what is in force now.
func (a *Agent) publish(p *pass, err error) {
	was := a.Status()
	refused, ignored := a.tell(was.Refused, p.refused, p.began), a.tell(was.Ignored, p.ignored, p.began)
	prefixes := a.store.Pool.Prefixes()
	state, _ := a.applied()
	identities := 0
	if state != nil {
		identities = countIdentities(state)
	}
	a.countFill()

	a.mu.Lock()
	a.objects = p.objs
	s := &a.status
	s.Refused, s.Ignored, s.PodCIDRs, s.MTU = refused, ignored, prefixes, p.local.mtu
	s.Uplinks = nil
	for _, u := range p.local.uplinks {
		s.Uplinks = append(s.Uplinks, u.Name)
	}
	s.Objects = p.objs.Len()
	s.Policies = len(p.objs.NetworkPolicies) + len(p.objs.ClusterNetworkPolicies) + len(p.objs.CiliumNetworkPolicies) + len(p.objs.CiliumClusterwideNetworkPolicies)
	s.Endpoints.Ready = len(a.inForce)
	if state != nil {
		s.Services, s.Identities = state.Services.Len(), identities
	}
	s.NotReady = a.notReady(p.objs, prefixes, err)
	s.Ready = s.NotReady == ""
	now := *s
	close(a.turned)
	a.turned = make(chan struct{})
	a.mu.Unlock()

	if now.Ready && !was.Ready {
		a.log.Info("ready", "podCIDRs", now.PodCIDRs, "uplinks", now.Uplinks, "mtu", now.MTU)
	}
	if now.Ready {
		a.report("write the network's configuration", a.writeConflist())
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

func countIdentities(state *model.State) int {
	seen := map[model.Identity]bool{}
	for addr := range state.Addresses.All() {
		if owner := addr.Owner(); owner >= model.FirstLabelIdentity && owner < model.FirstBlockIdentity {
			seen[owner] = true
		}
	}
	return len(seen)
}

// notReady says why pods cannot be connected, or nothing. It is called with mu held.
func (a *Agent) notReady(objs *manifest.Objects, prefixes []netip.Prefix, err error) string {
	switch {
	case a.state == nil && err != nil:
		return fmt.Sprintf("the cluster's state is not in force: %v", err)
	case objs.Nodes[a.opts.Node] == nil:
		return fmt.Sprintf("Node %s: there is none of that name: use the name that 'kubectl get nodes' shows", a.opts.Node)
	case len(prefixes) == 0:
		return fmt.Sprintf("Node %s: spec.podCIDRs: is empty: start kube-controller-manager with --allocate-node-cidrs and --cluster-cidr", a.opts.Node)
	case a.state == nil:
		return "the cluster's state is not in force yet"
	}
	return ""
}
