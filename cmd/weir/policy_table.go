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
	"strconv"
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
	guest   guest
}

func policyTableCommand() *cobra.Command {
	var o policyTable
	cmd := &cobra.Command{
		Use:   "table [OBJECTS...] --ports PORTS",
		Short: "Print which pod may reach which, port by port",
		Long: `Print which pod may reach which, port by port.

Engine model asks the plain-Go description of what policies mean; engine bpf
puts all pods on one node, compiles the policies into the datapath's tables and
sends a frame of each flow through the real programs (BPF_PROG_TEST_RUN): in a
VM without root, and with --kernel. The two share no code.

A pod to itself is left out, as are pods without an address of their own. Pods
that have both families are asked about by the first that both ends have, or by
that of --family: blocks of addresses may allow one and not the other. Nobody is
asked about a port by a name that none of its containers' ports has.

The exit status is 0 when there is a table, and 2 when there is none, because
the objects or the command line are wrong.`,
		Example: `  weir policy table manifests/ --ports 80/tcp,81/tcp,53/udp
  weir policy table rule1.yaml --ports 80/tcp --engine bpf -o json | jq .allowed
  helm template shop ./chart | weir policy table - --ports http -o matrix
  weir policy table --kubeconfig ~/.kube/config --ports 443/tcp`,
		RunE: func(cmd *cobra.Command, args []string) error { return noAnswerBut(o.run(cmd, args)) },
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.ports, "ports", []string{"80/tcp"}, "the targets' ports: 80/tcp, 53/udp, 9/sctp, icmp, or names of containers' ports")
	f.StringVar(&o.family, "family", "", "ipv4 or ipv6 alone")
	f.StringVar(&o.engine, "engine", "model", "who is asked: model or bpf")
	f.StringVarP(&o.output, "output", "o", "text", "text, matrix (a row and a column for each pod), or json (one object)")
	o.guest.register(cmd)
	o.objects.addFlag(cmd, "OBJECTS take the place of those of the same name")
	return cmd
}

func (o *policyTable) run(cmd *cobra.Command, args []string) error {
	if err := errors.Join(oneOf("output", o.output, "text", "matrix", "json"), oneOf("family", cmp.Or(o.family, policy.IPv4), policy.IPv4, policy.IPv6), oneOf("engine", o.engine, "model", "bpf")); err != nil {
		return usageError(err)
	}
	if len(args) == 0 && !o.objects.live() {
		return usageError(errors.New("of which objects? Name files or folders, or a cluster by --kubeconfig\nSee 'weir policy table --help'"))
	}
	ports, err := policy.ParsePorts(o.ports)
	if err != nil {
		return usageError(fmt.Errorf("--ports: %w", err))
	}
	if away, err := o.away(cmd, args); away || err != nil {
		return err
	}
	input, err := o.objects.read(cmd, args...)
	if err != nil {
		return err
	}
	objs := input.Objects
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
		table.Substitutes = input.Substitutes
		if err := json.NewEncoder(cmd.OutOrStdout()).Encode(table); err != nil {
			return fmt.Errorf("write table: %w", err)
		}
		return nil
	}
	if o.output == "matrix" {
		return printMatrices(cmd.OutOrStdout(), table, pods, ports)
	}
	return printTable(cmd.OutOrStdout(), table, ports)
}

// away runs the command in a guest, if it asks the programs and has to be there.
func (o *policyTable) away(cmd *cobra.Command, args []string) (bool, error) {
	guest, err := o.guest.where()
	switch {
	case o.engine == "model" && o.guest.kernel != "":
		return false, usageError(errors.New("--kernel is where --engine bpf runs the programs: engine model needs none"))
	case o.engine == "model":
		return false, nil
	case o.objects.live() && err == nil && guest != "":
		return false, usageError(errors.New("a VM reaches no cluster: as root it works without one; else save the objects by 'kubectl get -o yaml' and name that file"))
	}
	return o.guest.runs(cmd, errand{streams: args})
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

// isOf is whether a flow was asked about for a port.
func isOf(flow *policy.Flow, port policy.Port) bool {
	if port.Name != "" || flow.PortName != "" {
		return port.Name == flow.PortName && (port.Protocol == 0 || port.Protocol.String() == flow.Protocol)
	}
	return port.Number == flow.Port && port.Protocol.String() == flow.Protocol
}

// printMatrices prints a matrix for each port: a row for each sender, and a column
// for each target, in the same order.
func printMatrices(out io.Writer, t *policy.Table, pods []policy.Pod, ports []policy.Port) error {
	at := map[string]int{}
	for i := range pods {
		at[pods[i].Name] = i
	}
	width := len(strconv.Itoa(len(pods)))
	for n, port := range ports {
		cells := make([][]string, len(pods))
		for i := range cells {
			cells[i] = slices.Repeat([]string{"."}, len(pods))
		}
		for mark, flows := range map[string][]policy.Flow{"+": t.Allowed, "-": t.Denied} {
			for i := range flows {
				if isOf(&flows[i], port) {
					cells[at[flows[i].From]][at[flows[i].To]] = mark
				}
			}
		}
		if n > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "%s: + allowed, - denied, . not asked; a row's pod to a column's\n%*s", port, width, "")
		for i := range pods {
			fmt.Fprintf(out, " %*d", width, i+1)
		}
		fmt.Fprintln(out)
		for i, row := range cells {
			fmt.Fprintf(out, "%*d", width, i+1)
			for _, cell := range row {
				fmt.Fprintf(out, " %*s", width, cell)
			}
			if _, err := fmt.Fprintf(out, "  %s\n", pods[i].Name); err != nil {
				return fmt.Errorf("write matrix: %w", err)
			}
		}
	}
	return nil
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
				if isOf(&row, port) {
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
			fmt.Fprintf(w, "\t%s", cmp.Or(verdicts[at][port], "-"))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}
