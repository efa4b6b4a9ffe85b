// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/oracle"
)

type policyTable struct {
	ports  []string
	family string
	engine string
	output string

	objects policyObjects
}

func policyTableCommand() *cobra.Command {
	var o policyTable
	cmd := &cobra.Command{
		Use:   "table [OBJECTS...] --ports PORTS",
		Short: "Print which pod may reach which, port by port",
		Long: `Print which pod may reach which, port by port.

Engine model asks the plain-Go description of what policies mean; engine bpf
puts all pods on one node, compiles the policies into the datapath's tables and
sends a frame of each flow through the real programs (BPF_PROG_TEST_RUN), which
needs root. The two share no code.

A pod to itself is left out, as are pods without an address of their own. Pods
that have both families are asked about by the first that both ends have, or by
that of --family: blocks of addresses may allow one and not the other.

The exit status is 0 when there is a table, and 2 when there is none, because
the objects or the command line are wrong.`,
		Example: `  weir policy table manifests/ --ports 80/tcp,81/tcp,53/udp
  weir policy table rule1.yaml --ports 80/tcp --engine bpf -o json | jq .allowed
  weir policy table --kubeconfig ~/.kube/config --ports 443/tcp`,
		RunE: func(cmd *cobra.Command, args []string) error { return noAnswerBut(o.run(cmd, args)) },
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.ports, "ports", []string{"80/tcp"}, "the targets' ports: 80/tcp, 53/udp, 9/sctp, icmp")
	f.StringVar(&o.family, "family", "", "ipv4 or ipv6 alone")
	f.StringVar(&o.engine, "engine", "model", "who is asked: model or bpf")
	f.StringVarP(&o.output, "output", "o", "text", "text, or json (one object)")
	o.objects.addFlag(cmd, "OBJECTS take the place of those of the same name")
	return cmd
}

func (o *policyTable) run(cmd *cobra.Command, args []string) error {
	if err := errors.Join(oneOf("output", o.output, "text", "json"), oneOf("family", cmp.Or(o.family, familyIPv4), familyIPv4, familyIPv6), oneOf("engine", o.engine, "model", "bpf")); err != nil {
		return usageError(err)
	}
	if len(args) == 0 && !o.objects.live() {
		return usageError(errors.New("of which objects? Name files or folders, or a cluster by --kubeconfig\nSee 'weir policy table --help'"))
	}
	ports, err := parsePolicyPorts(o.ports)
	if err != nil {
		return err
	}
	objs, err := o.objects.read(cmd, args...)
	if err != nil {
		return err
	}
	pods := policyPods(objs, cmd.ErrOrStderr())
	if o.family != "" {
		if pods = withFamily(pods, o.family); len(pods) == 0 {
			return usageError(fmt.Errorf("--family %s: no pod among the objects has such an address", o.family))
		}
	}
	if len(pods) == 0 {
		return usageError(errNoPods)
	}
	warnings, err := doubts(objs)
	if err != nil {
		return err
	}
	tellWarnings(cmd.ErrOrStderr(), warnings)
	table, err := o.ask(cmd.Context(), objs, pods, ports)
	if err != nil {
		return err
	}
	if o.output == "json" {
		if err := json.NewEncoder(cmd.OutOrStdout()).Encode(table); err != nil {
			return fmt.Errorf("write table: %w", err)
		}
		return nil
	}
	return table.text(cmd.OutOrStdout(), ports)
}

func parsePolicyPorts(texts []string) ([]policyPort, error) {
	var ports []policyPort
	for _, text := range texts {
		port, err := parsePolicyPort(text)
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	slices.SortFunc(ports, comparePorts)
	ports = slices.Compact(ports)
	if len(ports) == 0 {
		return nil, usageError(errors.New("--ports: name at least one, as 80/tcp"))
	}
	return ports, nil
}

func comparePorts(a, b policyPort) int {
	return cmp.Or(cmp.Compare(a.port, b.port), cmp.Compare(a.protocol.String(), b.protocol.String()))
}

func (o *policyTable) ask(ctx context.Context, objs *model.Objects, pods []policyPod, ports []policyPort) (*flowTable, error) {
	if o.engine == "model" {
		return askModel(ctx, objs, pods, ports)
	}
	var table *flowTable
	err := withPolicyPrograms(ctx, func(p *policyPrograms) error {
		var err error
		table, err = p.ask(ctx, objs, pods, ports)
		return err
	})
	return table, err
}

// flowTable is who may reach whom. Rows are sorted by their fields in order.
type flowTable struct {
	Engine  string    `json:"engine"`
	Allowed []flowPut `json:"allowed"`
	Denied  []flowPut `json:"denied"`
}

// flowPut is a flow as it is put to an engine.
type flowPut struct {
	From     string `json:"from"` // namespace/pod
	To       string `json:"to"`
	Port     uint16 `json:"port"` // of the target
	Protocol string `json:"protocol"`
}

// fill asks about all pairs of pods and all ports. Pods that have no family in
// common are denied to each other.
func (t *flowTable) fill(ctx context.Context, pods []policyPod, ports []policyPort, ask func(from, to *policyPod, port policyPort) (bool, error)) error {
	t.Allowed, t.Denied = []flowPut{}, []flowPut{}
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
				row := flowPut{pods[i].name, pods[j].name, port.port, port.protocol.String()}
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

func askModel(ctx context.Context, objs *model.Objects, pods []policyPod, ports []policyPort) (*flowTable, error) {
	table := &flowTable{Engine: "model"}
	explainer := oracle.NewExplainer(objs)
	err := table.fill(ctx, pods, ports, func(from, to *policyPod, port policyPort) (bool, error) {
		src, dst, ok := meeting(from, to)
		if !ok {
			return false, nil
		}
		decision, err := explainer.Explain(src.String(), dst.String(), port.port, port.protocol)
		return decision.Allowed, err
	})
	return table, err
}

// text prints a line for each pair, and a column for each port.
func (t *flowTable) text(out io.Writer, ports []policyPort) error {
	type pair struct{ from, to string }
	verdicts := map[pair]map[policyPort]string{}
	var pairs []pair
	put := func(rows []flowPut, verdict string) {
		for _, row := range rows {
			at := pair{row.From, row.To}
			if verdicts[at] == nil {
				verdicts[at] = map[policyPort]string{}
				pairs = append(pairs, at)
			}
			for _, port := range ports {
				if port.port == row.Port && port.protocol.String() == row.Protocol {
					verdicts[at][port] = verdict
				}
			}
		}
	}
	put(t.Allowed, "allowed")
	put(t.Denied, "denied")
	slices.SortFunc(pairs, func(a, b pair) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "FROM\tTO")
	for _, port := range ports {
		fmt.Fprintf(w, "\t%s", port)
	}
	fmt.Fprintln(w)
	for _, at := range pairs {
		fmt.Fprintf(w, "%s\t%s", at.from, at.to)
		for _, port := range ports {
			fmt.Fprintf(w, "\t%s", verdicts[at][port])
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}
