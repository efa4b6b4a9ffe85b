// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"slices"

	"github.com/weirnet/weir/model"
)

// What pods open takes turns, as many as their shares: who takes one again makes
// room among its own.

// takeTurn forgets the flow that has to give way to one that a pod has opened,
// unless it was answered.
func (o *Oracle) takeTurn(opening flowKey) {
	if o.FlowShare == 0 || opening.where.Hook != model.FromContainer {
		return
	}
	all := append(o.openings[opening.where], opening)
	if len(all) > o.FlowShare {
		o.giveWay(all[0])
		all = all[1:]
	}
	o.openings[opening.where] = all
}

func (o *Oracle) giveWay(opening flowKey) {
	h := o.flows[opening]
	if h.flow == nil || h.reply {
		return
	}
	// What was answered is gone too where the pod has its share of such flows.
	if _, there := o.sees(opening); h.states&unanswered != 0 || !there {
		o.flows.remove(h.flow)
	}
}

// takePart forgets the first fragment that has to give way to one with a new key.
func (o *Oracle) takePart(key fragmentKey) {
	all := o.parts[key.where]
	if o.FragmentShare == 0 || slices.Contains(all, key) {
		return
	}
	if all = append(all, key); len(all) > o.FragmentShare {
		delete(o.fragments, all[0])
		all = all[1:]
	}
	o.parts[key.where] = all
}
