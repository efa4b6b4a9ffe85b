// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/install"
)

type statusFlags struct {
	clusterFlags
	output  vmOutput
	wait    bool
	timeout time.Duration
	tables  bool
	local   bool
	socket  string
}

func statusCommand() *cobra.Command {
	var flags statusFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say how Weir is on each node of a Kubernetes cluster",
		Long: `Say how Weir is on each node of a Kubernetes cluster.

Each agent is asked in its pod, so the kubeconfig's user needs pods/exec in
kube-system. Exit status: 0 all nodes are healthy, 1 some are not, 2 the command
line is wrong. A node is healthy when it and its agent are ready, and nothing
fails or is left out. Tables that are 80 % full or more are told of; --tables
shows all of them.`,
		Example: `  weir status
  weir status --wait --timeout 1m
  weir status --tables
  weir status -o json | jq 'select(.healthy | not) | {node, problems}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return flags.run(cmd) },
	}
	flags.clusterFlags.register(cmd)
	flags.output.register(cmd)
	f := cmd.Flags()
	f.BoolVar(&flags.wait, "wait", false, "wait until all nodes are healthy")
	f.DurationVar(&flags.timeout, "timeout", 5*time.Minute, "wait no longer than this")
	f.BoolVar(&flags.tables, "tables", false, "show how full the tables of each node are, and their memory")
	f.BoolVar(&flags.local, "local", false, "ask this node's agent alone, on its socket")
	f.StringVar(&flags.socket, "socket", api.DefaultSocket, "`path` of the agent's socket, for --local")
	return cmd
}

func (f *statusFlags) run(cmd *cobra.Command) error {
	if f.output.format != "table" && f.output.format != "json" {
		return usageError(fmt.Errorf("--output %s: there is only table and json", f.output.format))
	}
	if err := f.check(cmd); err != nil {
		return err
	}
	if f.local {
		return f.runLocal(cmd)
	}
	cluster, err := f.connect(cmd)
	if err != nil {
		return err
	}
	status, err := f.ask(cmd.Context(), cluster)
	if err != nil {
		return err
	}
	if err := f.print(cmd.OutOrStdout(), status); err != nil {
		return err
	}
	if !install.Healthy(status) {
		return &exitError{exitFailed, nil}
	}
	return nil
}

// check refuses flags that would not be looked at.
func (f *statusFlags) check(cmd *cobra.Command) error {
	given := cmd.Flags().Changed
	for _, flag := range []string{"kubeconfig", "context", "wait"} {
		if f.local && given(flag) {
			return usageError(fmt.Errorf("--%s is about a whole cluster, and --local asks this node's agent alone: leave out one of them", flag))
		}
	}
	if given("socket") && !f.local {
		return usageError(errors.New("--socket is where this node's agent is asked, and --local is not given"))
	}
	if given("timeout") && !f.wait {
		return usageError(errors.New("--timeout ends --wait, which is not given"))
	}
	return nil
}

func (f *statusFlags) ask(ctx context.Context, cluster *install.Cluster) ([]install.NodeStatus, error) {
	if f.wait {
		return cluster.WaitHealthy(ctx, f.timeout)
	}
	return cluster.Status(ctx)
}

func (f *statusFlags) print(w io.Writer, status []install.NodeStatus) error {
	err := printStatus(w, f.output, status)
	if err != nil || !f.tables || f.output.format == "json" { // JSON has them always
		return err
	}
	return printTables(w, f.output, status)
}

// tableRow is a table of a node.
type tableRow struct {
	node string
	api.Table
}

func printTables(w io.Writer, o vmOutput, status []install.NodeStatus) error {
	var rows []tableRow
	for i := range status {
		if a := status[i].Agent; a != nil {
			for _, table := range a.Tables {
				rows = append(rows, tableRow{status[i].Node, table})
			}
		}
	}
	fmt.Fprintln(w)
	return vmPrint(o, w, "NODE\tTABLE\tENTRIES\tROOM\tFILL\tMEMORY", rows, func(r tableRow) string {
		return fmt.Sprintf("%s\t%s\t%d\t%d\t%d %%\t%.1f MiB", r.node, r.Name, r.Entries, r.Room, r.Entries*100/max(r.Room, 1), float64(r.Bytes)/(1<<20))
	})
}

func printStatus(w io.Writer, o vmOutput, status []install.NodeStatus) error {
	err := vmPrint(o, w, "NODE\tHEALTHY\tAGENT\tKERNEL\tVERSION\tENDPOINTS\tSERVICES\tPOLICIES\tLAST APPLY\tLAST REPAIR", status, func(s install.NodeStatus) string {
		columns := []string{s.Node, yes(s.Healthy), firstClause(s.Phase), dash(s.Kernel), "-", "-", "-", "-", "-", "-"}
		if a := s.Agent; a != nil {
			columns = append(columns[:4], a.Version, endpoints(a.Endpoints), strconv.Itoa(a.Services), strconv.Itoa(a.Policies), lastApply(a.Apply), lastRepair(&a.Repair))
		}
		return strings.Join(columns, "\t")
	})
	if err != nil || o.format == "json" {
		return err
	}
	for i := range status {
		for _, problem := range status[i].Problems {
			fmt.Fprintf(w, "%s: %s\n", status[i].Node, problem)
		}
	}
	// Most of them are the same on all nodes.
	told := map[string]bool{}
	for i := range status {
		for _, note := range status[i].Notes {
			if !told[note] {
				told[note] = true
				fmt.Fprintln(w, note)
			}
		}
	}
	return nil
}

// firstClause is what of a sentence fits a table.
func firstClause(s string) string {
	first, _, _ := strings.Cut(s, ":")
	return first
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func endpoints(c api.EndpointCount) string {
	if c.Ready == c.Known {
		return strconv.Itoa(c.Known)
	}
	return fmt.Sprintf("%d of %d", c.Ready, c.Known)
}

func lastApply(a api.Apply) string {
	if a.Last.IsZero() {
		return "never"
	}
	text := fmt.Sprintf("%s ago, in %.1f ms", time.Since(a.Last).Round(time.Second), a.Seconds*1000)
	if a.Failed > 0 {
		text += fmt.Sprintf(", %d failed", a.Failed)
	}
	return text
}

func lastRepair(r *api.Repair) string {
	if r.Last.IsZero() {
		return "never"
	}
	text := fmt.Sprintf("%s ago, ", time.Since(r.Last).Round(time.Second))
	if repaired := r.Repaired(); repaired > 0 {
		return text + fmt.Sprintf("%d entries", repaired)
	}
	return text + "nothing"
}

func (f *statusFlags) runLocal(cmd *cobra.Command) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
	defer cancel()
	status, err := install.AskLocal(ctx, f.socket, "/etc/cni/net.d")
	if err != nil {
		return err
	}
	if f.output.format == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(status)
	}
	node := status.NodeStatus()
	return errors.Join(f.print(cmd.OutOrStdout(), []install.NodeStatus{node}), healthyOr(node.Healthy))
}

func healthyOr(healthy bool) error {
	if healthy {
		return nil
	}
	return &exitError{exitFailed, nil}
}
