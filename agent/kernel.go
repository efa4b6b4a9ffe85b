// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

// kernelAgain is how long subscriptions that have ended are waited with.
const kernelAgain = time.Second

// watchKernel has the node be looked at again when its kernel has other devices,
// addresses or default routes. Other addresses are followed at once: node ports
// answer there, whatever the Node lists. The kernel ends a subscription that is
// read too slowly; what was missed is looked for then.
func (a *Agent) watchKernel(ctx context.Context) error {
	for ctx.Err() == nil {
		a.report("watch the node's devices", a.followKernel(ctx))
		select {
		case <-ctx.Done():
		case <-time.After(kernelAgain):
			a.stale.Store(true)
			a.kick()
		}
	}
	return nil
}

func (a *Agent) followKernel(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	addresses, links, routes := make(chan netlink.AddrUpdate), make(chan netlink.LinkUpdate), make(chan netlink.RouteUpdate)
	if err := netlink.AddrSubscribe(addresses, ctx.Done()); err != nil {
		return fmt.Errorf("subscribe to addresses: %w", err)
	}
	defer drain(addresses)
	if err := netlink.LinkSubscribe(links, ctx.Done()); err != nil {
		return fmt.Errorf("subscribe to devices: %w", err)
	}
	defer drain(links)
	if err := netlink.RouteSubscribe(routes, ctx.Done()); err != nil {
		return fmt.Errorf("subscribe to routes: %w", err)
	}
	defer drain(routes)
	for {
		select {
		case <-ctx.Done():
			return nil
		case update, going := <-addresses:
			if !going {
				return nil
			}
			a.stale.Store(true)
			if update.LinkAddress.IP.IsGlobalUnicast() {
				a.kick()
			}
		case _, going := <-links:
			if !going {
				return nil
			}
			a.stale.Store(true)
		case update, going := <-routes:
			if !going {
				return nil
			}
			if isDefault(&update.Route) {
				a.stale.Store(true)
			}
		}
	}
}

// drain reads what is left, so that a subscription can end.
func drain[T any](updates chan T) {
	go func() {
		for range updates {
		}
	}()
}
