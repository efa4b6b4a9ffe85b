// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
)

const (
	firstRetry   = time.Second
	longestRetry = 30 * time.Second
	// Each change of numbers has all flows judged again: those of many labels
	// come together.
	batch = time.Second
)

// wake has labels that want a number looked at.
func (r *Registry) wake() {
	select {
	case r.work <- struct{}{}:
	default:
	}
}

// claimAll makes objects for labels of this node's pods until ctx ends. It is
// called when the numbers were read.
func (r *Registry) claimAll(ctx context.Context) {
	retry := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.work:
		}
		err := r.claimMissing(ctx)
		if ctx.Err() != nil {
			return
		}
		r.note(creating, err)
		if err == nil {
			retry = 0
			continue
		}
		retry = min(max(2*retry, firstRetry), longestRetry)
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry + rand.N(retry/2)): // agents do not come all at once
		}
		r.wake()
	}
}

// claimMissing goes through all labels, whatever becomes of each.
func (r *Registry) claimMissing(ctx context.Context) (failed error) {
	r.mu.Lock()
	missing, wanted := r.table.missing(), r.table.wanted
	r.mu.Unlock()
	changed, since := false, time.Now()
	for _, key := range missing {
		set := wanted[key].Labels
		differs, err := r.claim(ctx, key, &set)
		changed = changed || differs
		if changed && time.Since(since) >= batch {
			r.opts.Changed()
			changed, since = false, time.Now()
		}
		if err != nil {
			failed = err
			if isOfAll(err) {
				break
			}
		}
	}
	if changed {
		r.opts.Changed()
	}
	return failed
}

// isOfAll is whether what failed once will fail for others too.
func isOfAll(err error) bool { return !apierrors.IsInvalid(err) }

// collisions is how many numbers are tried that this agent took for free: more
// are taken by others only while it is told of them.
const collisions = 64

// claim gives labels a number, their own or one that somebody gave meanwhile.
// It says whether a number in force changed.
func (r *Registry) claim(ctx context.Context, key string, set *model.LabelSet) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestPatience)
	defer cancel()
	for range collisions {
		r.mu.Lock()
		number, free := r.table.choose(key, time.Now().Add(-r.opts.Unused))
		there := len(r.table.byKey[key]) > 0
		r.mu.Unlock()
		if there {
			return changed, nil
		}
		if !free {
			return changed, ErrExhausted
		}
		object, err := toObject(number, set)
		if err != nil {
			return changed, err
		}
		made, err := r.client.Create(ctx, object, metav1.CreateOptions{})
		ours := err == nil
		if apierrors.IsAlreadyExists(err) {
			made, err = r.client.Get(ctx, object.GetName(), metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				continue // it went at this moment
			}
		}
		if err != nil {
			return changed, fmt.Errorf("create identity %d: %w", number, err)
		}
		found, err := asRecord(made)
		if err != nil {
			return changed, err
		}
		// One of other labels is known from now on, and another number chosen.
		changed = r.take(found) || changed
		if ours && found.key != key {
			return changed, ErrChanged
		}
	}
	return changed, fmt.Errorf("create identity: %d numbers were others'", collisions)
}
