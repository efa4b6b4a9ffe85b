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
}

// Flow is a flow as it is put to an engine.
type Flow struct {
	From     string `json:"from"` // namespace/pod
	To       string `json:"to"`
	Port     uint16 `json:"port"` // of the target
	Protocol string `json:"protocol"`
}

// fill asks about all pairs of pods and all ports. Pods that have no family in
// common are denied to each other.
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
				allowed, err := ask(&pods[i], &pods[j], port)
				if err != nil {
					return err
				}
				row := Flow{pods[i].Name, pods[j].Name, port.Number, port.Protocol.String()}
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
