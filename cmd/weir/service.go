// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/model"
)

// defaultPins is where a datapath lies pinned that nobody has put elsewhere.
const defaultPins = "/sys/fs/bpf/weir"

// tablesFlags are those of commands that read the tables of a datapath that
// runs.
type tablesFlags struct {
	vmOutput
	pins string
}

func (f *tablesFlags) register(cmd *cobra.Command) {
	f.vmOutput.register(cmd)
	cmd.Flags().StringVar(&f.pins, "pins", defaultPins, "the directory in which the datapath is pinned")
}

// view opens the tables and gives them to read. An unknown format is refused
// before that.
func (f *tablesFlags) view(read func(*datapath.View) error) error {
	if f.format != "table" && f.format != "json" {
		return usageError(fmt.Errorf("--output %s: there is only table and json", f.format))
	}
	v, err := datapath.OpenView(f.pins)
	if errors.Is(err, datapath.ErrNoDatapath) {
		return fmt.Errorf("%w: name the directory of one that runs by --pins", err)
	}
	if err != nil {
		return err
	}
	return errors.Join(read(v), v.Close())
}

func serviceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Show the services that a running datapath leads to their backends",
	}
	cmd.AddCommand(serviceListCommand(), serviceShowCommand())
	return cmd
}

// serviceRow is a frontend as it is printed.
type serviceRow struct {
	Name       string              `json:"name"`
	Kind       string              `json:"kind,omitempty"`
	Scope      string              `json:"scope"`
	Protocol   string              `json:"protocol"`
	Address    netip.AddrPort      `json:"address"`
	Algorithm  string              `json:"algorithm"`
	MaglevSize int                 `json:"maglevSize,omitempty"`
	Affinity   float64             `json:"affinitySeconds,omitempty"`
	Local      bool                `json:"local,omitempty"`
	DSR        bool                `json:"dsr,omitempty"`
	Sources    []netip.Prefix      `json:"sources,omitempty"`
	Restricted bool                `json:"restricted,omitempty"` // to sources
	Backends   []serviceBackendRow `json:"backends"`
}

type serviceBackendRow struct {
	Address     netip.AddrPort `json:"address"`
	Name        string         `json:"name,omitempty"`
	Share       float64        `json:"share"`
	Terminating bool           `json:"terminating,omitempty"`
}

func newServiceRow(f *datapath.Frontend) serviceRow {
	row := serviceRow{
		Name: f.Name.String(), Kind: string(f.Kind), Scope: f.Scope.String(), Protocol: f.Protocol.String(),
		Address: netip.AddrPortFrom(f.Address, f.Port), Algorithm: string(model.AlgorithmRandom),
		MaglevSize: f.MaglevSize, Affinity: f.Affinity.Seconds(), Local: f.Local, DSR: f.DSR,
		Sources: f.Sources, Restricted: f.Restricted, Backends: []serviceBackendRow{},
	}
	if f.MaglevSize != 0 {
		row.Algorithm = string(model.AlgorithmMaglev)
	}
	for _, b := range f.Backends {
		row.Backends = append(row.Backends, serviceBackendRow{
			Address: netip.AddrPortFrom(b.Address, b.Port), Name: b.Name.String(), Share: b.Share, Terminating: b.Terminating,
		})
	}
	return row
}

// counts says how many backends take new flows, and how many do not any more.
func (r *serviceRow) counts() string {
	going := 0
	for _, b := range r.Backends {
		if b.Terminating {
			going++
		}
	}
	if going == 0 {
		return fmt.Sprint(len(r.Backends))
	}
	return fmt.Sprintf("%d (+%d terminating)", len(r.Backends)-going, going)
}

// rules are what is asked beside the backends.
func (r *serviceRow) rules() string {
	var rules []string
	if r.Affinity != 0 {
		rules = append(rules, fmt.Sprintf("affinity %s", time.Duration(r.Affinity*float64(time.Second))))
	}
	if r.Local {
		rules = append(rules, "local backends only")
	}
	if r.DSR {
		rules = append(rules, "direct server return")
	}
	if r.Restricted {
		rules = append(rules, fmt.Sprintf("%d source ranges", len(r.Sources)))
	}
	return dash(strings.Join(rules, ", "))
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func serviceListCommand() *cobra.Command {
	var flags tablesFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List frontends, their backends and rules",
		Long: `List frontends, their backends and rules.

A frontend is an address, port and protocol, and there is one for each scope:
what pods of the node and the node itself meet is inside, what comes in by the
node's devices outside.`,
		Example: "  weir service list\n  weir service list -o json | jq 'select(.backends == [])'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.view(func(v *datapath.View) error {
				rows, err := serviceRows(v, "")
				if err != nil {
					return err
				}
				return vmPrint(flags.vmOutput, cmd.OutOrStdout(), "NAME\tKIND\tSCOPE\tPROTOCOL\tADDRESS\tBACKENDS\tALGORITHM\tRULES", rows, func(r serviceRow) string {
					return strings.Join([]string{r.Name, dash(r.Kind), r.Scope, r.Protocol, r.Address.String(), r.counts(), r.Algorithm, r.rules()}, "\t")
				})
			})
		},
	}
	flags.register(cmd)
	return cmd
}

// serviceRows reads the frontends of a name: whole, or without its port, or
// without its namespace. The empty name is of all.
func serviceRows(v *datapath.View, name string) ([]serviceRow, error) {
	frontends, err := v.Services()
	if err != nil {
		return nil, err
	}
	rows := []serviceRow{}
	for i := range frontends {
		if name == "" || serviceNamed(frontends[i].Name, name) {
			rows = append(rows, newServiceRow(&frontends[i]))
		}
	}
	return rows, nil
}

func serviceNamed(port model.PortRef, name string) bool {
	bare := port
	bare.Namespace = ""
	return name == port.String() || name == port.Object().String() || name == bare.String() || name == port.Name
}

func serviceShowCommand() *cobra.Command {
	var flags tablesFlags
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a service's frontends, and each one's backends",
		Long: `Show a service's frontends, and each one's backends with their share of new
flows.

NAME is namespace/name:port as 'weir service list' prints it; port or namespace
may be left out.`,
		Example: "  weir service show default/web:80\n  weir service show web -o json",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError(errors.New("which service? Name one; 'weir service list' lists them"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.view(func(v *datapath.View) error {
				rows, err := serviceRows(v, args[0])
				if err != nil {
					return err
				}
				if len(rows) == 0 {
					return fmt.Errorf("show service %s: the datapath has none of that name: 'weir service list' lists them", args[0])
				}
				if flags.format == "json" {
					return vmPrint(flags.vmOutput, cmd.OutOrStdout(), "", rows, nil)
				}
				for i := range rows {
					if err := printService(cmd.OutOrStdout(), &rows[i]); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	flags.register(cmd)
	return cmd
}

func printService(w io.Writer, r *serviceRow) error {
	kind := strings.TrimSpace(r.Kind + " " + r.Scope)
	fmt.Fprintf(w, "%s  %s  %s %s\n", r.Name, kind, r.Protocol, r.Address)
	algorithm := r.Algorithm
	if r.MaglevSize != 0 {
		algorithm += fmt.Sprintf(", a table of %d", r.MaglevSize)
	}
	fmt.Fprintf(w, "  algorithm  %s\n", algorithm)
	if rules := r.rules(); rules != "-" {
		fmt.Fprintf(w, "  rules      %s\n", rules)
	}
	for _, p := range r.Sources {
		fmt.Fprintf(w, "  source     %s\n", p)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, b := range r.Backends {
		share := fmt.Sprintf("%.1f %%", 100*b.Share)
		if b.Terminating {
			share = "terminating"
		}
		fmt.Fprintf(table, "  backend    %s\t%s\t%s\n", b.Address, share, dash(b.Name))
	}
	if len(r.Backends) == 0 {
		fmt.Fprintln(table, "  backend    none: refused or dropped")
	}
	return table.Flush()
}
