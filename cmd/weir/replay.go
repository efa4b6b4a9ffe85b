// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/replay"
)

type replayRun struct {
	at       string
	state    string
	node     string
	object   string
	seed     uint32
	segments int
	by       string
	output   string
	write    string
	scenario int
	diff     bool
	exitCode bool
	follow   bool
	filter   replayFilter
	guest    guest
}

func replayCommand() *cobra.Command {
	o := replayRun{}
	cmd := &cobra.Command{
		Use:   "replay FILE...",
		Short: "Say what each packet of a capture would meet in the datapath",
		Long: `Say what the packets of a capture would meet in the datapath.

Each packet goes through the real program by BPF_PROG_TEST_RUN, with the clock
set from its timestamp. Several files are one capture, in their order; pcap and
pcapng are read, compressed by gzip or not. "-" is the standard input: it, FIFOs
and other pipes are read once, as packets come, and the first signal is their
end. Files are read whole; there, the first signal stops the replay with a
summary of what was done, and the exit status is 130 for an interrupt and 143
for a termination.

Text is told by connection: packets there and back, bytes, the worst verdict
that a packet met, and of the first one that did not go on the reason, the
policy and its rule. A packet that answers one which was dropped is "never
sent"; a connection is dead of which nothing that one end sent came, or where
TCP waits for what was dropped. --by packet has one line for each packet. As
packets come (--follow, and always of a pipe), a line tells that a connection is
new, that it has its first drop, and how it was at its end.

With --state, the objects of a cluster say who is a pod and what is allowed.
Without, endpoints are made of the addresses seen (at from-container those that
send, at to-container those that are sent to), and everything is allowed. At
from-device and to-device, the hooks of a node's own device, a state says who
the node is.

A packet's verdict is forward, drop, refused or broken. What the datapath
answers in the packet's place, ARP for one, is forward with the way out "self",
and its reason says what answered. Refused is what did not reach the program,
with a sentence as its reason; broken, where the program returned or marked
something else than it noted: the command fails then.

A packet that the capture has cut is marked as truncated. If all of its headers
are there, it is filled up with zeros; if not, it is dropped, for the reason
truncated, no program sees it, and the summary counts it apart.

A packet that a device would segment (GSO) is judged once, as a hook meets it.
One that is longer than a test run takes, 3,712 bytes, has less payload then.

Without root, and with --kernel, it runs in a VM, with the files that are named;
of pipes it takes one.

With --diff, A and B are two states, two object files of other builds of bpf/
(with the --state given), or two results that -o json has written; what changed
is told by flow. --scenario takes the packets of N's flow along, and of a later
fragment the first one.`,
		Example: `  weir replay capture.pcap
  tcpdump -i eth0 -U -w - | weir replay --state cluster.yaml -
  weir replay --state cluster.yaml --drops --to default/web capture.pcap
  weir replay --by packet --filter 'tcp port 80' --count 10 capture.pcap
  weir replay --state cluster.yaml --at from-device --node worker eth0.pcap
  weir replay --state cluster.yaml --at to-container -o json capture.pcapng.gz
  weir replay -w annotated.pcapng capture.pcap
  weir replay --scenario 17 -o regression.txtar capture.pcap
  weir replay --diff before.yaml after.yaml capture.pcap
  weir replay --diff old.json new.json`,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	f := cmd.Flags()
	f.StringVar(&o.at, "at", string(model.FromContainer), "the hook: "+strings.Join(replayHooks, ", "))
	f.StringVar(&o.state, "state", "", "Kubernetes objects (YAML or JSON) whose datapath it is")
	f.StringVar(&o.node, "node", "", "whose datapath, where the objects have several nodes")
	f.StringVar(&o.object, "object", "", "object file of programs to run in place of the embedded ones")
	f.Uint32Var(&o.seed, "seed", 0, "of the programs' choices: equal seeds, equal choices")
	f.Var(count{&o.segments}, "segments", "judge every `N`th packet that a device would segment segment by segment: 1 is each; 0 judges them by their headers")
	f.StringVarP(&o.output, "output", "o", "text", "text or json (one object a line); with --scenario the file to write")
	f.StringVar(&o.by, "by", "", "tell by packet or connection (default connection; of json packet)")
	f.BoolVar(&o.follow, "follow", false, "tell as packets come (always of a pipe, unless it is --follow=false)")
	o.filter.flags(f)
	f.StringVarP(&o.write, "write", "w", "", "write the packets with their verdicts as comments to this pcapng file")
	f.IntVar(&o.scenario, "scenario", 0, "write packet `N`, with those of its flow before it, as a scenario")
	f.BoolVar(&o.diff, "diff", false, "compare: the first two arguments are A and B")
	o.guest.register(cmd)
	f.BoolVar(&o.exitCode, "exit-code", false, "with --diff, end with exit status 1 when something changed; 2 is a mistake")
	return cmd
}

// replayHooks are those that packets are replayed at.
var replayHooks = []string{string(model.FromContainer), string(model.ToContainer), string(model.FromDevice), string(model.ToDevice)}

func (o *replayRun) run(cmd *cobra.Command, args []string) error {
	if err := o.check(cmd, args); err != nil {
		return err
	}
	if o.diff {
		err := o.compare(cmd, args)
		if o.exitCode { // exit status 1 is an answer then
			return noAnswerBut(err)
		}
		return err
	}
	options, err := o.options(cmd)
	if err != nil {
		return err
	}
	if err := o.checkWrite(args); err != nil {
		return err
	}
	if away, err := o.guest.runs(cmd, o.errand(args, o.state, o.object)); away || err != nil {
		return err
	}
	captures := o.captures(args)
	if captures.Filter, err = o.filter.compile(cmd.Context()); err != nil {
		return err
	}
	if o.scenario > 0 {
		return o.toScenario(cmd, captures, options)
	}
	return o.replay(cmd, captures, options)
}

func (o *replayRun) check(cmd *cobra.Command, args []string) error {
	if err := oneOf("at", o.at, replayHooks...); err != nil {
		return err
	}
	if err := o.filter.checkReasons(); err != nil {
		return err
	}
	scenario := cmd.Flags().Changed("scenario")
	if err := o.checkOutput(cmd, scenario); err != nil {
		return err
	}
	switch {
	case scenario && o.scenario < 1:
		return usageError(fmt.Errorf("--scenario %d: packets are numbered from 1", o.scenario))
	case scenario && (o.diff || o.write != ""):
		return usageError(errors.New("--scenario goes with neither --diff nor --write"))
	case o.diff && o.write != "":
		return usageError(errors.New("--diff and --write do not go together"))
	case o.exitCode && !o.diff:
		return usageError(errors.New("--exit-code says whether --diff found a change, and --diff is not given"))
	case !o.diff && len(args) == 0:
		return usageError(errors.New("which capture? Name one or more files, or - for the standard input\nSee 'weir replay --help'"))
	case o.diff && len(args) < 2:
		return usageError(errors.New("--diff compares two: name A and B, then the captures\nSee 'weir replay --help'"))
	case (o.at == string(model.FromDevice) || o.at == string(model.ToDevice)) && o.state == "" && !o.diff:
		return usageError(fmt.Errorf("--at %s needs a --state with the node whose device it is", o.at))
	}
	if scenario && (o.at == string(model.FromDevice) || o.at == string(model.ToDevice)) {
		return usageError(fmt.Errorf("--scenario makes none of packets at %s: a scenario's nodes have devices of their own", o.at))
	}
	if scenario || o.diff {
		if flag := o.filter.given(); flag != "" {
			return usageError(fmt.Errorf("--%s says what a replay shows: it goes with neither --diff nor --scenario", flag))
		}
	}
	return o.checkStreams(args, scenario)
}

// errand is what a replay needs in a guest: captures, and what else it reads.
func (o *replayRun) errand(captures []string, others ...string) errand {
	e := errand{streams: captures}
	for _, path := range others {
		if path != "" {
			e.reads = append(e.reads, path)
		}
	}
	if o.write != "" {
		e.writes = append(e.writes, o.write)
	}
	if o.scenario > 0 && o.output != "text" {
		e.writes = append(e.writes, o.output)
	}
	if o.filter.expression != "" {
		e.programs = append(e.programs, "tcpdump")
	}
	return e
}

// checkOutput fills in what results are told by.
func (o *replayRun) checkOutput(cmd *cobra.Command, scenario bool) error {
	if !scenario {
		if err := oneOf("output", o.output, "text", "json"); err != nil {
			return err
		}
	}
	switch {
	case o.by != "" && (scenario || o.diff):
		return usageError(errors.New("--by says how a replay is told: it goes with neither --diff nor --scenario"))
	case o.by == "" && o.output == "json":
		o.by = byPacket
	case o.by == "":
		o.by = byConnection
	}
	return oneOf("by", o.by, byConnection, byPacket)
}

// What results are told by.
const (
	byPacket     = "packet"
	byConnection = "connection"
)

// checkStreams refuses what cannot be read, or not as often as it would have to be.
func (o *replayRun) checkStreams(args []string, scenario bool) error {
	stdin := 0
	for _, path := range args {
		if path == replay.Stdin {
			stdin++
		}
	}
	switch {
	case stdin > 1:
		return usageError(errors.New("the standard input, -, can be read once"))
	case stdin == 1 && terminal(os.Stdin):
		return usageError(errors.New("the standard input is a terminal: give a capture to it, as by tcpdump -U -w - | weir replay -"))
	case scenario && (&replay.Captures{Paths: args}).Streams():
		return usageError(errors.New("--scenario reads the capture more than once: write it to a file first"))
	}
	return nil
}

// checkWrite keeps captures from being overwritten while they are read.
func (o *replayRun) checkWrite(paths []string) error {
	to, err := os.Stat(o.write)
	if o.write == "" || err != nil {
		return nil //nolint:nilerr // it is not there yet, or creating it will tell
	}
	for _, path := range paths {
		if from, err := os.Stat(path); err == nil && os.SameFile(from, to) {
			return usageError(fmt.Errorf("--write %s would overwrite the capture that is read", o.write))
		}
	}
	return nil
}

func (o *replayRun) options(cmd *cobra.Command) (replay.Options, error) {
	options := replay.Options{At: model.Hook(o.at), Node: o.node, Seed: o.seed, Segments: o.segments}
	var err error
	if o.object != "" {
		if options.Object, err = os.ReadFile(o.object); err != nil {
			return options, fmt.Errorf("read object file: %w", err)
		}
	}
	if o.state == "" {
		if o.node != "" {
			return options, usageError(errors.New("--node chooses among the nodes of --state, which is not given"))
		}
		return options, nil
	}
	options.Objects, err = readState(o.state)
	return options, err
}

func readState(path string) (*manifest.Objects, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	defer file.Close()
	return manifest.Parse(path, file)
}

// captures makes the files' reading show on a terminal how far it is, once it
// has taken a second.
func (o *replayRun) captures(paths []string) *replay.Captures {
	c := &replay.Captures{Paths: paths}
	if !terminal(os.Stderr) || c.Streams() {
		return c
	}
	shown := time.Now()
	c.Progress = func(p replay.Progress) {
		if time.Since(shown) < time.Second {
			return
		}
		shown = time.Now()
		fmt.Fprintf(os.Stderr, "\r\x1b[K%d packets, %d%% of the files\r", p.Packets, p.Read*100/max(p.Total, 1))
	}
	return c
}

func clearProgress() {
	if terminal(os.Stderr) {
		fmt.Fprint(os.Stderr, "\x1b[K")
	}
}

// replay prints what packets or connections met, and at the end how many met what.
func (o *replayRun) replay(cmd *cobra.Command, captures *replay.Captures, options replay.Options) error {
	p := o.printer(cmd.OutOrStdout(), captures)
	if follow := cmd.Flags().Lookup("follow"); follow.Changed {
		p.follow = o.follow
	}
	captures.Idle = p.idle
	err := o.annotating(captures, options, p, func() error {
		return replay.WithNetwork(cmd.Context(), func(n *replay.Network) error {
			r, err := replay.Open(cmd.Context(), n, captures, options)
			if err != nil {
				return explainReplay(err)
			}
			if p.filter, err = o.filter.read(r); err != nil {
				return errors.Join(err, r.Close())
			}
			tellSetup(cmd.ErrOrStderr(), r.Setup)
			p.begun = true
			err = r.Run(cmd.Context(), captures, p.tell)
			if errors.Is(err, errEnough) || captures.Streams() && stoppedBy(cmd.Context()) != nil {
				err = nil // which is how a pipe ends
			}
			if r.Setup.Growing {
				tellGrown(cmd.ErrOrStderr(), r.Setup)
			}
			return errors.Join(stoppedAfter(err, p.summary.Packets), r.Close())
		})
	})
	clearProgress()
	if !p.begun {
		return err
	}
	return errors.Join(err, p.end(err), p.out.Flush())
}

// stoppedAfter tells how far a replay had come that a signal has stopped.
func stoppedAfter(err error, packets int) error {
	if stopped, ok := errors.AsType[*stoppedError](err); ok {
		return fmt.Errorf("%w after %d packets", stopped, packets)
	}
	return err
}

// annotating runs a replay while the packets are written with their outcomes.
func (o *replayRun) annotating(captures *replay.Captures, options replay.Options, p *replayPrinter, run func() error) error {
	if o.write == "" {
		return run()
	}
	file, err := os.Create(o.write)
	if err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	buffered := bufio.NewWriterSize(file, 1<<16)
	p.annotated = buffered
	if p.annotator, err = replay.NewAnnotator(buffered, captures, options); err == nil {
		err = run()
	}
	return errors.Join(err, buffered.Flush(), file.Close())
}

// explainReplay makes errors of the command line usage errors.
func explainReplay(err error) error {
	if errors.Is(err, replay.ErrNode) {
		return usageError(fmt.Errorf("%w by --node", err))
	}
	return err
}

func tellSetup(out io.Writer, s replay.Setup) {
	for _, w := range s.Warnings {
		fmt.Fprintln(out, "weir: warning:", w)
	}
	switch {
	case s.Growing:
		fmt.Fprintln(out, "weir: no --state: endpoints are made for the addresses that are seen, as they come; everything is allowed")
	case s.Made:
		fmt.Fprintf(out, "weir: no --state: made endpoints for the %d addresses seen; everything is allowed\n", s.Endpoints)
	}
	tellGrown(out, s)
}

func tellGrown(out io.Writer, s replay.Setup) {
	if s.Full {
		fmt.Fprintf(out, "weir: the endpoint table is full: packets of other addresses than the first %d are refused\n", s.Endpoints)
	}
}
