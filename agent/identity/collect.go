// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	longestCollect = time.Minute
	// After the API was away, what is known of pods may be older than what is
	// known of identities: watches begin anew one by one.
	settling = 2 * time.Minute
	// most is how many are deleted at once.
	most = 500
)

// collectAll deletes objects that nobody needs until ctx ends.
func (r *Registry) collectAll(ctx context.Context) {
	interval := min(r.opts.Unused/4, longestCollect)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(interval + rand.N(interval/4)): // agents do not come all at once
		}
		if !r.knowsPods() {
			continue
		}
		err := r.collect(ctx, r.due(time.Now()))
		if ctx.Err() == nil {
			r.note(deleting, err)
		}
	}
}

// knowsPods says whether what is known of pods is worth something: the agent
// goes through them every half minute.
func (r *Registry) knowsPods() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.source.synced() && time.Since(r.used) < settling && r.source.calm(min(settling, r.opts.Unused))
}

// due are objects that have been of no pod's labels for long. Agents have a
// time of their own for each object, so that mostly one asks for its end.
func (r *Registry) due(now time.Time) []*record {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*record
	since := map[string]time.Time{}
	for _, object := range r.table.unused() {
		uid := string(object.UID)
		began, known := r.unused[uid]
		if !known {
			began = now
		}
		since[uid] = began
		jitter := r.opts.Unused / 5 * time.Duration(hash(r.opts.Node, uid)%1000) / 1000
		if now.Sub(began) >= r.opts.Unused+jitter && len(list) < most {
			list = append(list, object)
		}
	}
	r.unused = since
	r.table.forget(now.Add(-r.opts.Unused))
	return list
}

// collect deletes objects if they are still as they were.
func (r *Registry) collect(ctx context.Context, list []*record) error {
	for _, object := range list {
		ctx, cancel := context.WithTimeout(ctx, requestPatience)
		err := r.client.Delete(ctx, object.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{
			UID: &object.UID, ResourceVersion: &object.ResourceVersion,
		}})
		cancel()
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	return nil
}
