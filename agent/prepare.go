// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// pass is what the node and the cluster are at one moment. Nothing of it changes
// any more.
type pass struct {
	began             time.Time
	self              *corev1.Node // nil: the cluster has none of our name
	local             *localNode
	ours              map[model.Key]api.Endpoint
	state             *model.State
	refused, ignored  []api.Refused
	checks            []compile.HealthCheck
	objects, policies int // that are not refused

	looks   uint64 // how often the node was looked at
	owns    uint64 // how often the node's own may have become another: devices, pods, records
	checked uint64 // how often checks became others
	whole   uint64 // how often all of it was compiled
}

// kept is what a pass is made from, and what goes on from one to the next.
type kept struct {
	cluster  *cluster
	local    *localNode   // as it was looked at last
	self     *corev1.Node // by what it was looked at
	looks    uint64
	owns     uint64
	compiled uint64      // of them, the last that was
	inputs   model.Local // what is compiled of these
	compiler compile.Incremental
	checks   *healthChecks
	takeover takeover
	told     told
}

// prepare takes in what changed, and compiles. Without a pass the node cannot be
// looked at.
func (a *Agent) prepare() (*pass, error) {
	a.compiling.Lock()
	defer a.compiling.Unlock()
	p, k := &pass{began: time.Now()}, &a.kept
	k.cluster.take()
	p.self = k.cluster.objs.Nodes[a.opts.Node]
	looked, err := a.lookAgain(p.self)
	if err != nil {
		return nil, err
	}
	strangers := a.takeRecords(looked)
	p.state, p.refused, p.ignored, err = a.compile()
	p.refused = append(p.refused, strangers...)
	p.local, p.ours, p.checks = k.local, k.cluster.pods.ours, k.checks.list
	p.objects, p.policies = k.cluster.count(p.refused)
	p.looks, p.owns, p.checked, p.whole = k.looks, k.owns, k.checks.revision, k.compiler.Whole()
	return p, err
}

// lookAgain looks at the node's devices where they, or what the Node says of
// them, may be others than when it looked last.
func (a *Agent) lookAgain(self *corev1.Node) (looked bool, err error) {
	k := &a.kept
	if !a.stale.Swap(false) && self == k.self {
		return false, nil
	}
	local, err := a.look()
	a.report("look at the node's devices", err)
	if err != nil {
		a.stale.Store(true)
		return false, err
	}
	local.setUplinks(&a.opts.Config, self)
	k.local, k.self = local, self
	k.looks++
	a.usePrefixes(self)
	return true, nil
}

// takeRecords gives the node's pods the addresses that they are recorded with,
// and records those that another plugin has connected: it gives those for which
// it cannot.
func (a *Agent) takeRecords(looked bool) (strangers []api.Refused) {
	k := &a.kept
	pods := &k.cluster.pods
	moved := looked || pods.hasNews(a.store)
	if moved {
		a.store.Pool.Exclude(a.spare(pods, k.local))
		a.forgetTakenOver(k.local)
	}
	if moved || len(k.takeover.tries) > 0 {
		strangers = a.takeOver(pods, k.local)
	}
	if moved || pods.hasNews(a.store) {
		k.owns++
	}
	k.cluster.settle(a.store)
	return strangers
}

// compile leaves out objects that cannot be kept. Pods that a policy selects
// which is left out are isolated.
func (a *Agent) compile() (state *model.State, refused, ignored []api.Refused, err error) {
	k := &a.kept
	if k.compiled != k.owns {
		k.inputs = model.Local{
			Addresses: k.local.own(), Devices: k.local.devices(k.cluster.pods.ours), Gateways: model.Gateways(), Uplinks: k.local.uplinks,
			Options: a.opts.Config.Options(), Identities: a.identities, Budgets: a.budgets,
		}
	}
	a.shareIdentities()
	changed := k.cluster.takeChanged()
	state, refusals, warnings, err := k.compiler.KeepAfter(k.cluster.objs, manifest.InOrder(k.cluster.unread), changed, a.opts.Node, k.inputs)
	for i := range refusals {
		refused = append(refused, refusedOf(&refusals[i]))
	}
	k.checks.take(k.cluster.objs, changed, refusals)
	if err != nil {
		return nil, refused, nil, err // it is not about an object
	}
	a.useIdentities(k.compiled != k.owns)
	k.compiled = k.owns
	lost, ignored := fieldsOf(warnings, k.cluster.objs)
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
