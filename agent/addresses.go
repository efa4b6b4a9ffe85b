// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

// addressesAgain is how long a subscription that has ended is waited with.
const addressesAgain = time.Second

// watchAddresses has the datapath follow the addresses that the node's kernel
// has: node ports answer there, whatever the Node lists. The kernel ends a
// subscription that is read too slowly; what was missed is looked for then.
func (a *Agent) watchAddresses(ctx context.Context) error {
	for ctx.Err() == nil {
		a.report("watch the node's addresses", a.followAddresses(ctx))
		select {
		case <-ctx.Done():
		case <-time.After(addressesAgain):
			a.kick()
		}
	}
	return nil
}

func (a *Agent) followAddresses(ctx context.Context) error {
	updates := make(chan netlink.AddrUpdate)
	if err := netlink.AddrSubscribe(updates, ctx.Done()); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	for update := range updates {
		if update.LinkAddress.IP.IsGlobalUnicast() {
			a.kick()
		}
	}
	return nil
}
