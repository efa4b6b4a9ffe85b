// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Case is a sequence as it can be played again: everything in it is concrete.
type Case struct {
	// Pods are those that the node has devices for, by slot, namespace/name.
	// Before the first step all of them are there, without labels.
	Pods  []string
	Steps []Step
	// Uplink gives programs to the node's uplink, and Options are then what
	// its operator chose.
	Uplink  bool
	Options model.Options
}

// Step is one of: a frame, a change of objects, a pod's name that gets another
// interface, time that passes, or a run of the collector.
type Step struct {
	Frame   *Frame
	Change  *Change
	Renew   string
	Advance time.Duration
	Collect bool
}

// Frame is what a hook gets.
type Frame struct {
	At   model.Where
	Data []byte // from the Ethernet header on
}

// Change is made at once: either objects are put in place of those of their
// names, or some are removed.
type Change struct {
	Upsert []metav1.Object
	Delete []Ref
}

// Ref names an object. Kind is in lower case.
type Ref struct{ Kind, Namespace, Name string }

// hooks are those that frames of the case may meet.
func (c *Case) hooks() []model.Hook {
	if c.Uplink {
		return []model.Hook{model.FromContainer, model.ToContainer, model.FromDevice, model.ToDevice}
	}
	return []model.Hook{model.FromContainer, model.ToContainer}
}

// to makes the change to objects, in place. It fails when there is nothing to
// remove.
func (c *Change) to(objs *manifest.Objects) error {
	for _, o := range c.Upsert {
		if err := objs.Upsert(o); err != nil {
			return err
		}
	}
	for _, r := range c.Delete {
		if err := objs.Delete(r.Kind, r.Namespace, r.Name); err != nil {
			return err
		}
	}
	return nil
}
