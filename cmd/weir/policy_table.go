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

	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/policy"
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
	if err := errors.Join(oneOf("output", o.output, "text", "json"), oneOf("family", cmp.Or(o.family, policy.IPv4), policy.IPv4, policy.IPv6), oneOf("engine", o.engine, "model", "bpf")); err != nil {
		return usageError(err)
	}
	if len(args) == 0 && !o.objects.live() {
		return usageError(errors.New("of which objects? Name files or folders, or a cluster by --kubeconfig\nSee 'weir policy table --help'"))
	}
	ports, err := policy.ParsePorts(o.ports)
	if err != nil {
		return usageError(fmt.Errorf("--ports: %w", err))
	}
	objs, err := o.objects.read(cmd, args...)
	if err != nil {
		return err
	}
	pods, left := policy.Pods(objs)
	tellLeftOut(cmd.ErrOrStderr(), left)
	if o.family != "" {
		if pods = policy.WithFamily(pods, o.family); len(pods) == 0 {
			return usageError(fmt.Errorf("--family %s: no pod among the objects has such an address", o.family))
		}
	}
	if len(pods) == 0 {
		return usageError(policy.ErrNoPods)
	}
	warnings, err := policy.Doubts(objs)
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
	return printTable(cmd.OutOrStdout(), table, ports)
}

func (o *policyTable) ask(ctx context.Context, objs *manifest.Objects, pods []policy.Pod, ports []policy.Port) (*policy.Table, error) {
	if o.engine == "model" {
		return policy.ModelTable(ctx, objs, pods, ports)
	}
	var table *policy.Table
	err := policy.WithPrograms(ctx, func(p *policy.Programs) error {
		var err error
		table, err = p.Table(ctx, objs, pods, ports)
		return err
	})
	return table, err
}

// printTable prints a line for each pair, and a column for each port.
func printTable(out io.Writer, t *policy.Table, ports []policy.Port) error {
	type pair struct{ from, to string }
	verdicts := map[pair]map[policy.Port]string{}
	var pairs []pair
	put := func(rows []policy.Flow, verdict string) {
		for _, row := range rows {
			at := pair{row.From, row.To}
			if verdicts[at] == nil {
				verdicts[at] = map[policy.Port]string{}
				pairs = append(pairs, at)
			}
			for _, port := range ports {
				if port.Number == row.Port && port.Protocol.String() == row.Protocol {
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
