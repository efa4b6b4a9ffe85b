// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"

	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/oracle"
)

// Table is who may reach whom. Rows are sorted by their fields in order.
type Table struct {
	Engine  string `json:"engine"`
	Allowed []Flow `json:"allowed"`
	Denied  []Flow `json:"denied"`
	// Substitutes are the pods of From and To that stand for others.
	Substitutes []Substitute `json:"substitutes,omitempty"`
}

// Flow is a flow as it is put to an engine.
type Flow struct {
	From     string `json:"from"` // namespace/pod
	To       string `json:"to"`
	Port     uint16 `json:"port"` // of the target
	Protocol string `json:"protocol"`
	PortName string `json:"portName,omitempty"` // where it was asked for by name
}

// fill asks about all pairs of pods and all ports, but for ports of names that the
// target has not. Pods that have no family in common are denied to each other.
func (t *Table) fill(ctx context.Context, pods []Pod, ports []Port, ask func(from, to *Pod, port Port) (bool, error)) error {
	t.Allowed, t.Denied = []Flow{}, []Flow{}
	for i := range pods {
		if err := ctx.Err(); err != nil {
			return err
		}
		for j := range pods {
			if i == j {
				continue
			}
			for _, port := range ports {
				at, has := port.Of(&pods[j])
				if !has {
					continue
				}
				allowed, err := ask(&pods[i], &pods[j], at)
				if err != nil {
					return err
				}
				row := Flow{pods[i].Name, pods[j].Name, at.Number, at.Protocol.String(), port.Name}
				if allowed {
					t.Allowed = append(t.Allowed, row)
				} else {
					t.Denied = append(t.Denied, row)
				}
			}
		}
	}
	return nil
}

// ModelTable asks the plain-Go description of what policies mean.
func ModelTable(ctx context.Context, objs *manifest.Objects, pods []Pod, ports []Port) (*Table, error) {
	table := &Table{Engine: "model"}
	explainer := oracle.NewExplainer(objs)
	err := table.fill(ctx, pods, ports, func(from, to *Pod, port Port) (bool, error) {
		src, dst, ok := meeting(from, to)
		if !ok {
			return false, nil
		}
		decision, err := explainer.Explain(src.String(), dst.String(), port.Number, port.Protocol)
		return decision.Allowed, err
	})
	return table, err
}
