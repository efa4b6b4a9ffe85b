// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"reflect"
	"unsafe"

	"github.com/weirnet/weir/model"
)

// Identities are numbers of sets of labels that the nodes of a cluster have
// agreed on.
type Identities interface {
	// Numbers gives those that there are, by model.LabelSet's key, each once.
	Numbers() map[string]model.Identity
	// Use says what pods are known by now.
	Use(map[string]model.WantedIdentity)
	// Count gives how many numbers the cluster has, and how many sets of
	// labels have one of this node alone.
	Count() (shared, local int)
	// Run takes part until ctx ends.
	Run(ctx context.Context)
	// WaitForSync waits until the numbers are read, or cannot be.
	WaitForSync(ctx context.Context)
}

func (a *Agent) openIdentities() (err error) {
	if a.opts.Identities == nil {
		return nil
	}
	a.shared, err = a.opts.Identities(a.kick, func(err error) { a.report("share identities", err) })
	return err
}

func (a *Agent) runIdentities(ctx context.Context) error {
	if a.shared != nil {
		a.shared.Run(ctx)
	}
	return nil
}

func (a *Agent) waitForIdentities(ctx context.Context) {
	if a.shared != nil {
		a.shared.WaitForSync(ctx)
	}
}

// shareIdentities has the next compile use the cluster's numbers.
func (a *Agent) shareIdentities() {
	if a.shared != nil {
		a.identities.Share(a.shared.Numbers())
	}
}

// useIdentities tells what it found pods to be known by, where that, or the
// numbers, are others than when it told last; always says that it is to be told
// again. The maps that stand for both are never changed.
func (a *Agent) useIdentities(always bool) {
	if a.shared == nil {
		return
	}
	now := told{mapOf(a.identities.Wanted()), mapOf(a.shared.Numbers())}
	if always || now != a.kept.told {
		a.kept.told = now
		a.shared.Use(a.identities.Wanted())
	}
}

// told is which maps were told of.
type told struct{ wanted, numbers unsafe.Pointer }

// mapOf tells one map from another.
func mapOf[K comparable, V any](m map[K]V) unsafe.Pointer { return reflect.ValueOf(m).UnsafePointer() }
