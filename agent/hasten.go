// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/routes"
	"github.com/weirnet/weir/model"
)

// hasten connects the pods that wait while a pass applies a state which does not know
// of them: it may be a large one, and they need their own endpoints only.
func (a *Agent) hasten(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.waiting:
		}
		if !a.isLate() {
			continue
		}
		p, err := a.prepare()
		if err != nil {
			continue // the next pass tells of it
		}
		a.connectWaiting(p)
	}
}

// isLate says whether a pod waits while a pass applies.
func (a *Agent) isLate() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.applying && len(a.waiters) > 0
}

// connectWaiting connects those who wait. One who cannot be connected beside the pass
// gets his turn in the next one.
func (a *Agent) connectWaiting(p *pass) {
	for i := range p.state.Endpoints {
		in := &p.state.Endpoints[i]
		e := p.ours[in.Name]
		at := api.Attachment{ContainerID: e.ContainerID, IfName: e.IfName}
		a.mu.Lock()
		known, found := a.inForce[at]
		waits := a.waiters[at] > 0 && (!found || known.ifindex != e.Ifindex)
		a.mu.Unlock()
		if !waits {
			continue
		}
		if err := a.connectAhead(p, in, at, &e); err != nil {
			a.log.Debug("a pod waits for the next pass", "pod", in.Name.String(), "error", err)
		}
	}
}

func (a *Agent) connectAhead(p *pass, in *model.Endpoint, at api.Attachment, e *api.Endpoint) error {
	if err := a.datapath.Connect(p.state, in.Name); err != nil {
		return err
	}
	now := inForce{e.Ifindex, in.Identity, in.RuleSet}
	a.mu.Lock()
	a.ahead[at] = now // and so its routes are spared
	a.mu.Unlock()
	err := errors.Join(a.bringUp(p.local, e), routes.Add(routesToPod(p.state, p.local, e)))
	if _, gone := a.store.Get(at); gone != nil { // whoever took it away may have been before us
		a.leaveAhead(at, e.Ifindex)
		return fmt.Errorf("connect Pod %s: %w", in.Name, gone)
	}
	if err != nil {
		a.mu.Lock()
		delete(a.ahead, at) // it is the next pass's to connect
		a.mu.Unlock()
		return fmt.Errorf("connect Pod %s: %w", in.Name, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.inForce[at] = now
	a.status.Endpoints.Ready = len(a.inForce)
	close(a.turned)
	a.turned = make(chan struct{})
	return nil
}

// leaveAhead forgets that an endpoint was connected beside a pass. Where no pass has had
// it since, the next one takes it out of the datapath.
func (a *Agent) leaveAhead(at api.Attachment, ifindex int) {
	a.mu.Lock()
	delete(a.ahead, at)
	a.mu.Unlock()
	if a.datapath.Disconnect(ifindex) {
		a.left.Store(true)
		a.kick()
	}
}

// isAhead says whether a route leads to a pod that was connected beside a pass.
func (a *Agent) isAhead(to netip.Prefix) bool {
	a.mu.Lock()
	ahead := make([]api.Attachment, 0, len(a.ahead))
	for at := range a.ahead {
		ahead = append(ahead, at)
	}
	a.mu.Unlock()
	for _, at := range ahead {
		e, err := a.store.Get(at)
		if err != nil {
			continue
		}
		for _, addr := range e.Addresses {
			if to == netip.PrefixFrom(addr, addr.BitLen()) {
				return true
			}
		}
	}
	return false
}

// await notes that a pod waits, and gives what is closed when more is in force.
func (a *Agent) await(at api.Attachment) <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiters[at]++
	return a.turned
}

func (a *Agent) awaitNoMore(at api.Attachment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiters[at]--; a.waiters[at] == 0 {
		delete(a.waiters, at)
	}
}
