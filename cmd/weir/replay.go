// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
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
	output   string
	write    string
	scenario int
	diff     bool
	exitCode bool
}

func replayCommand() *cobra.Command {
	o := replayRun{}
	cmd := &cobra.Command{
		Use:   "replay FILE...",
		Short: "Say what each packet of a capture would meet in the datapath",
		Long: `Say what each packet of a capture would meet in the datapath.

Each packet goes through the real program by BPF_PROG_TEST_RUN, with the clock
set from its timestamp. Several files are one capture, in their order; pcap and
pcapng are read, compressed by gzip or not.

With --state, the objects of a cluster say who is a pod and what is allowed.
Without, endpoints are made of the addresses seen (at from-container those that
send, at to-container those that are sent to), and everything is allowed.

A packet's verdict is forward, drop, refused or broken. What the datapath
answers in the packet's place, ARP for one, is forward with the way out "self",
and its reason says what answered. Refused is what did not reach the program,
with a sentence as its reason; broken, where the program returned or marked
something else than it noted: the command fails then.

A packet that the capture has cut is marked as truncated. If all of its headers
are there, it is filled up with zeros, and its transport checksum not judged; if
not, it is dropped, for the reason truncated, and no program sees it.

The clock stands still between timestamps, and one that goes back does not move
it back: a capture replayed again gives the same bytes. The first signal stops a
replay, with a summary of what was done; the exit status is then 130 for an
interrupt and 143 for a termination.

With --diff, A and B are two states, two object files of other builds of bpf/
(with the --state given), or two results that -o json has written; what changed
is told by flow. --scenario takes the packets of N's flow along, and of a later
fragment the first one.`,
		Example: `  weir replay capture.pcap
  weir replay --state cluster.yaml --at to-container -o json capture.pcapng.gz
  weir replay -w annotated.pcapng capture.pcap
  weir replay --scenario 17 -o regression.txtar capture.pcap
  weir replay --diff before.yaml after.yaml capture.pcap
  weir replay --diff old.json new.json`,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	f := cmd.Flags()
	f.StringVar(&o.at, "at", string(model.FromContainer), "the hook: from-container or to-container")
	f.StringVar(&o.state, "state", "", "Kubernetes objects (YAML or JSON) whose datapath it is")
	f.StringVar(&o.node, "node", "", "whose datapath, where the objects have several nodes")
	f.StringVar(&o.object, "object", "", "object file of programs to run in place of the embedded ones")
	f.Uint32Var(&o.seed, "seed", 0, "of the programs' choices: equal seeds, equal choices")
	f.Var(count{&o.segments}, "segments", "judge every `N`th packet that a device would segment segment by segment: 1 is each; 0 judges them by their headers")
	f.StringVarP(&o.output, "output", "o", "text", "text or json (one object a line); with --scenario the file to write")
	f.StringVarP(&o.write, "write", "w", "", "write the packets with their verdicts as comments to this pcapng file")
	f.IntVar(&o.scenario, "scenario", 0, "write packet `N`, with those of its flow before it, as a scenario")
	f.BoolVar(&o.diff, "diff", false, "compare: the first two arguments are A and B")
	f.BoolVar(&o.exitCode, "exit-code", false, "with --diff, end with exit status 1 when something changed; 2 is a mistake")
	return cmd
}

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
	captures := o.captures(args)
	if o.scenario > 0 {
		return o.toScenario(cmd, captures, options)
	}
	return o.replay(cmd, captures, options)
}

func (o *replayRun) check(cmd *cobra.Command, args []string) error {
	if err := oneOf("at", o.at, string(model.FromContainer), string(model.ToContainer)); err != nil {
		return err
	}
	scenario := cmd.Flags().Changed("scenario")
	if !scenario {
		if err := oneOf("output", o.output, "text", "json"); err != nil {
			return err
		}
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
		return usageError(errors.New("which capture? Name one or more files\nSee 'weir replay --help'"))
	case o.diff && len(args) < 2:
		return usageError(errors.New("--diff compares two: name A and B, then the captures\nSee 'weir replay --help'"))
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
	if !terminal(os.Stderr) {
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

// replay prints every packet's outcome, and at the end how many met what.
func (o *replayRun) replay(cmd *cobra.Command, captures *replay.Captures, options replay.Options) error {
	out := bufio.NewWriterSize(cmd.OutOrStdout(), 1<<16)
	p := &replayPrinter{json: o.output == "json", several: len(captures.Paths) > 1, out: out}
	err := o.annotating(captures, options, p, func() error {
		return replay.WithNetwork(cmd.Context(), func(n *replay.Network) error {
			r, err := replay.Open(cmd.Context(), n, captures, options)
			if err != nil {
				return explainReplay(err)
			}
			tellSetup(cmd.ErrOrStderr(), r.Setup)
			p.begun = true
			err = stoppedAfter(r.Run(cmd.Context(), captures, p.tell), p.summary.Packets)
			return errors.Join(err, r.Close())
		})
	})
	clearProgress()
	if !p.begun {
		return err
	}
	return errors.Join(err, p.end(err), out.Flush())
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
	if s.Made {
		fmt.Fprintf(out, "weir: no --state: made endpoints for the %d addresses seen; everything is allowed\n", s.Endpoints)
	}
	if s.Full {
		fmt.Fprintf(out, "weir: the endpoint table is full: packets of other addresses than the first %d are refused\n", s.Endpoints)
	}
}

// replayPrinter prints outcomes as they come.
type replayPrinter struct {
	json, several bool
	begun         bool // the datapath is there: there is a summary at the end
	out           *bufio.Writer
	line          []byte
	summary       replay.Summary
	annotator     *replay.Annotator
}

func (p *replayPrinter) tell(o *replay.Outcome) error {
	p.summary.Add(o)
	switch {
	case p.json:
		p.line = append(replay.AppendJSON(p.line[:0], o, p.several), '\n')
	case o.Number == 1:
		p.line = replay.AppendText(append(p.line[:0], replay.TextHeader...), o, verdictColours())
	default:
		p.line = replay.AppendText(p.line[:0], o, verdictColours())
	}
	if _, err := p.out.Write(p.line); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	if p.annotator != nil {
		return p.annotator.Write(o)
	}
	return nil
}

// end prints the summary, with what could not be read.
func (p *replayPrinter) end(problem error) error {
	p.summary.Finish()
	if problem != nil {
		p.summary.Problems = append(p.summary.Problems, problem.Error())
	}
	if err := p.summarize(); err != nil {
		return err
	}
	if p.summary.Broken > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

func (p *replayPrinter) summarize() error {
	if !p.json {
		fmt.Fprintln(p.out)
		return p.summary.Text(p.out)
	}
	err := json.NewEncoder(p.out).Encode(map[string]*replay.Summary{"summary": &p.summary})
	if err != nil {
		return fmt.Errorf("write summary: %w", err)
	}
	return nil
}

// verdictColours says how a verdict is painted: only on a terminal.
func verdictColours() func(replay.Verdict) (before, after string) {
	if !terminal(os.Stdout) || os.Getenv("NO_COLOR") != "" {
		return func(replay.Verdict) (string, string) { return "", "" }
	}
	return func(v replay.Verdict) (string, string) {
		colours := map[replay.Verdict]string{replay.Forward: "32", replay.Drop: "31", replay.Refused: "33", replay.Broken: "31"}
		return "\x1b[" + colours[v] + "m", "\x1b[0m"
	}
}
