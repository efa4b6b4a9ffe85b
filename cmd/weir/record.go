// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/netns"
	"github.com/weirnet/weir/record"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/report"
	"github.com/weirnet/weir/scenarios/syntax"
)

type recording struct {
	write  string
	family string
	world  *record.World
	guest  guest
}

func recordCommand() *cobra.Command {
	var o recording
	cmd := &cobra.Command{
		Use:   "record NAME|FILE",
		Short: "Run a scenario, and write what every interface carries",
		Long: `Run a scenario, and write what every interface carries.

The scenario, of the library by name or of a file, runs once in world netns.
The capture has the interfaces of pods and of hosts outside, both directions,
and beside each packet what the datapath decided about it: verdict, reason,
and the place in its source. Of a silent host it has what the script sends.

The exit status is 1 when the scenario fails; the capture is written then too.

Nothing of this machine's own interfaces is recorded. Without the privileges
that worlds need, and with --kernel, all of it happens in a VM.`,
		Example: `  weir record service-clusterip-tcp -w service.pcapng
  weir record --family ipv6 my.txtar -w - | tshark -r -`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError(errors.New("which scenario? Name one; 'weir scenario list' lists those of the library"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.write, "write", "w", "", "the pcapng file to write; - is the standard output")
	o.guest.register(cmd)
	f.StringVar(&o.family, "family", "", "ipv4 or ipv6; default the first that the scenario declares")
	return cmd
}

func (o *recording) run(cmd *cobra.Command, name string) error {
	if o.write == "" {
		return usageError(errors.New("where to? Name a file by --write"))
	}
	s, err := o.scenario(name)
	if err != nil {
		return err
	}
	if away, err := o.guest.runs(cmd, o.errand(name)); away || err != nil {
		return err
	}
	runner := &scenarios.Runner{
		Worlds: []syntax.World{syntax.Netns}, Parallel: 1, Netns: o.make,
		Match: regexp.MustCompile("^" + regexp.QuoteMeta(s.Name+"/"+o.family) + "$"),
	}
	results, err := runner.Run(cmd.Context(), []*scenarios.Scenario{s})
	if o.world != nil {
		err = errors.Join(err, o.save(cmd, s))
	}
	for _, r := range results {
		text := &report.Text{Out: cmd.ErrOrStderr(), Colour: terminal(os.Stderr) && os.Getenv("NO_COLOR") == ""}
		text.Result(r)
		if r.Failed() && err == nil {
			err = &exitError{code: exitFailed}
		}
	}
	return err
}

// errand is what it needs in a guest.
func (o *recording) errand(name string) errand {
	e := errand{programs: []string{"cat"}} // which holds the namespaces of hosts
	if _, missing := os.Stat(name); missing == nil {
		e.reads = append(e.reads, name)
	}
	if o.write != "-" {
		e.writes = append(e.writes, o.write)
	}
	return e
}

// scenario finds what is to be recorded, and its family.
func (o *recording) scenario(name string) (*scenarios.Scenario, error) {
	var all []*scenarios.Scenario
	var err error
	if _, missing := os.Stat(name); missing == nil {
		all, err = scenarios.Load(name)
	} else if all, err = scenarios.Library(); err == nil {
		all = slices.DeleteFunc(all, func(s *scenarios.Scenario) bool { return s.Name != name })
	}
	switch {
	case err != nil:
		return nil, err
	case len(all) == 0:
		return nil, usageError(fmt.Errorf("there is no file and no scenario %s: 'weir scenario list' lists them", name))
	case len(all) > 1:
		return nil, usageError(fmt.Errorf("%s has %d scenarios: name one", name, len(all)))
	}
	s := all[0]
	if !slices.Contains(s.Worlds, syntax.Netns) {
		return nil, usageError(fmt.Errorf("scenario %s is not for world %s, where there are interfaces to record", s.Name, syntax.Netns))
	}
	if o.family == "" {
		o.family = string(s.Families[0])
	}
	if !slices.Contains(s.Families, syntax.Family(o.family)) {
		return nil, usageError(fmt.Errorf("--family %s: scenario %s is for %s", o.family, s.Name, join(s.Families)))
	}
	return s, nil
}

// make builds a world that tells of every packet, and records it.
func (o *recording) make(ctx context.Context, topology lab.Topology, options netns.Options) (lab.World, error) {
	every := record.Options().Datapath
	options.Datapath.TraceAll, options.Datapath.EventsPerSecond = every.TraceAll, every.EventsPerSecond
	w, err := netns.New(ctx, topology, options)
	if err != nil {
		return nil, err
	}
	if o.world, err = record.New(w, topology); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return o.world, nil
}

func (o *recording) save(cmd *cobra.Command, s *scenarios.Scenario) error {
	var to io.Writer = cmd.OutOrStdout()
	var file *os.File
	if o.write != "-" {
		var err error
		if file, err = os.Create(o.write); err != nil {
			return fmt.Errorf("write capture: %w", err)
		}
		to = file
	}
	out := bufio.NewWriter(to)
	err := errors.Join(o.world.Write(out, fmt.Sprintf("scenario %s/%s in world %s", s.Name, o.family, syntax.Netns)), out.Flush())
	if file != nil {
		err = errors.Join(err, file.Close())
	}
	if n := o.world.Lost; n > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "weir: %d frames or decisions came faster than they could be kept\n", n)
	}
	if n := o.world.Unplaced; n > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "weir: %d decisions stand beside no packet: it was at none of the interfaces\n", n)
	}
	return err
}
