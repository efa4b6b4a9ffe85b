// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"fmt"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// run passes a frame through a node's program, and gives what is wrong with what
// the program left besides it.
func (n *node) run(hook model.Hook, data []byte, ifindex int, mark uint32) (datapath.Ran, []string, error) {
	ran, events, faults, err := n.witness.Run(hook, data, ifindex, mark)
	if len(events) > 0 {
		faults = append(faults, misnamed(events, data)...)
	}
	return ran, faults, err
}

// misnamed compares whom events tell of with the packet that was sent.
func misnamed(events []datapath.Looked, data []byte) []string {
	p := frame.Decode(data)
	tuple, ok := p.Tuple()
	_, quotes := p.Quoted()
	_, wrapped := p.Carried()
	// A later fragment is told of with the ports of the first.
	if !ok || quotes || wrapped || p.Later() {
		return nil
	}
	var faults []string
	for i := range events {
		// Before a flow is looked up the packet may not have been read.
		if e := &events[i]; e.Flow != datapath.FlowNone && e.Tuple != tuple {
			faults = append(faults, fmt.Sprintf("an event tells of %s, and the packet is %s", e.Tuple, tuple))
		}
	}
	return faults
}

// Pass runs a frame through a hook of a node alone, at one of its devices, as
// if it had come there. Faults are what is wrong with what the program left
// besides the frame; what is given is good until the next call.
func (w *World) Pass(name string, hook model.Hook, data []byte, ifindex int) (ran datapath.Ran, faults []string, err error) {
	n := w.nodeCalled(name)
	if n == nil {
		return ran, nil, fmt.Errorf("run %s: there is no node %s in the world", hook, name)
	}
	return n.run(hook, data, ifindex, datapath.MarkOfOthers)
}

// Counted says which counters of a node are not what its programs have noted.
func (w *World) Counted(name string) ([]string, error) { return w.nodeCalled(name).witness.Counters() }
