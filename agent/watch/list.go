// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"

	"github.com/weirnet/weir/model/manifest"
)

// List reads a cluster's objects once, as an agent would, and tells which of
// them cannot be read. The context bounds how long the cluster may take.
func List(ctx context.Context, kubeconfig string) (*manifest.Objects, []manifest.Unread, error) {
	clients, err := Connect(kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	return clients.List(ctx)
}

// List is List of a cluster that is connected.
func (c *Clients) List(ctx context.Context) (*manifest.Objects, []manifest.Unread, error) {
	w, err := New(c.Typed, c.Dynamic, func() {})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx)
	}()
	err = w.WaitForSync(ctx)
	objs, unread := w.Inputs().Objects()
	cancel()
	<-ended
	if err != nil {
		return nil, nil, err
	}
	return objs, unread, nil
}
