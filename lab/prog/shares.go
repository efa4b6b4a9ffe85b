// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
)

// smallShares are options of a datapath that leaves each pod lab.SmallShare of
// what pods have shares of. Only the constants are small: a table of a few entries
// would throw out others' to make room.
func smallShares(o datapath.Options) datapath.Options {
	edit := o.Edit
	o.Flows, o.Unanswered = lab.FlowRoom, lab.FlowRoom
	o.Edit = func(spec *ebpf.CollectionSpec) error {
		for name, value := range map[string]uint32{
			bpf.ContainerVarFlowShare: lab.SmallShare, bpf.ContainerVarAnsweredShare: lab.SmallShare,
			bpf.ContainerVarFragmentShare: lab.SmallShare,
			bpf.ContainerVarRefusalTakes:  uint32(lab.SmallRefusals.Milliseconds()),
			bpf.ContainerVarRefusalAhead:  uint32(lab.SmallShare * lab.SmallRefusals.Milliseconds()),
		} {
			v := spec.Variables[name]
			if v == nil {
				continue
			}
			if err := v.Set(value); err != nil {
				return fmt.Errorf("set constant %s: %w", name, err)
			}
		}
		if edit != nil {
			return edit(spec)
		}
		return nil
	}
	return o
}
