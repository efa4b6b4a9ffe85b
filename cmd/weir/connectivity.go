// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/klog/v2"

	"github.com/weirnet/weir/agent/install"
	"github.com/weirnet/weir/lab/connectivity"
	"github.com/weirnet/weir/lab/kube"
)

func connectivityCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "connectivity",
		Short: "Test the network of a live cluster",
	}
	cmd.AddCommand(connectivityTestCommand())
	return cmd
}

// connectivityTest are the flags of the command.
type connectivityTest struct {
	cluster          clusterFlags
	run, skip        string
	families         []string
	list, dryRun     bool
	keep, explain    bool
	junit, output    string
	report           string
	prefix, selector string
	image            string
	options          connectivity.Options
}

func connectivityTestCommand() *cobra.Command {
	var o connectivityTest
	cmd := &cobra.Command{
		Use:   "test",
		Short: "Try what pods, nodes and services reach each other",
		Long: `Try what pods, nodes and services of a cluster reach, whatever its network.

Probes are put on up to three nodes. What the cluster has is found out and
shown first; what it lacks for an action, the action is skipped for, with the
reason. Then one action after another is done between the probes: each is a
line with its seconds when it has ended. Names are TEST/CASE/FAMILY.

Policies are judged by what comes through. Where Weir does not run, a policy
that denies all is tried out before: if it denies nothing, tests of policies
are skipped.

An action that failed is done once more with captures at both ends, and its
result carries evidence: the captures, what policies say, the objects that have
to do with it; and where Weir runs flows, drops and what its agents have of the
ends. That is of the first 20 failures of a run. --report writes it into a
folder, with the captures as pcapng; 'weir scenario from-failure' makes a
scenario of it.

Everything is made in namespaces of the run's own, which are removed at the
end, after Ctrl-C too. A run that was killed has a lease: the next run removes
what it has left when the lease is over.

This machine is the host beside the nodes where it is in their subnet. The
exit status is 0 if no action failed, 1 if one did or the run could not be
done, and 2 if the command line is wrong.`,
		Example: `  weir connectivity test
  weir connectivity test --kubeconfig kind.yaml --image weir:dev
  weir connectivity test --list --run '^policy-'
  weir connectivity test --dry-run --explain-skip
  weir connectivity test --run '^(cluster-ip|node-port)/' --family ipv6
  weir connectivity test --report reports/connectivity
  weir connectivity test --junit reports/connectivity.xml -o json > all.json
  weir connectivity test --flake-attempts 2 --timeout 5m
  weir connectivity test --run '^perf/' --perf`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.do(cmd) },
	}
	o.cluster.register(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.list, "list", false, "list the tests and their actions; no cluster is asked")
	f.StringVar(&o.run, "run", "", "only actions whose name this `regexp` matches")
	f.StringVar(&o.skip, "skip", "", "no action whose name this `regexp` matches")
	f.BoolVar(&o.dryRun, "dry-run", false, "show what the cluster has and what would be done, and make nothing")
	f.StringSliceVar(&o.families, "family", nil, "only these `families` (ipv4, ipv6); default both")
	f.DurationVar(&o.options.Timeout, "timeout", 10*time.Minute, "stop a run that takes longer")
	f.BoolVar(&o.keep, "keep", false, "leave the probes there, and say how to remove them")
	f.StringVar(&o.junit, "junit", "", "write the results to this `file` as JUnit, too")
	f.StringVar(&o.report, "report", "", "write the results and the evidence of what failed into this `folder`, too")
	f.StringVarP(&o.output, "output", "o", "text", "text or json: one document, and what goes on is told on stderr")
	f.BoolVar(&o.explain, "explain-skip", false, "show each action that was skipped, and not only how many, by reason")
	f.StringVar(&o.prefix, "namespace-prefix", kube.DefaultPrefix, "what the `names` of namespaces begin with")
	f.Var(imageName{&o.image}, "image", "`reference` of the probes' image, which has this program (default: that of the agents of Weir there)")
	f.StringVar(&o.selector, "node-selector", "", "only on nodes with these `labels`, as in zone=a,!gpu")
	f.IntVar(&o.options.Concurrency, "concurrency", 8, "how many actions at once")
	f.Var(count{&o.options.Attempts}, "flake-attempts", "do a failed action again so often; one that then succeeds is told as flaky")
	f.BoolVar(&o.options.Selection.Perf, "perf", false, "measure latency and throughput, too")
	return cmd
}

// prefixes as names of namespaces may begin, with room for the rest.
var prefixes = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

func (o *connectivityTest) check() error {
	if err := oneOf("output", o.output, "text", "json"); err != nil {
		return err
	}
	s := &o.options.Selection
	for flag, to := range map[string]**regexp.Regexp{"run": &s.Run, "skip": &s.Skip} {
		text := map[string]string{"run": o.run, "skip": o.skip}[flag]
		if text == "" {
			continue
		}
		var err error
		if *to, err = regexp.Compile(text); err != nil {
			return usageError(fmt.Errorf("--%s: %w", flag, err))
		}
	}
	for _, name := range o.families {
		if err := oneOf("family", name, "ipv4", "ipv6"); err != nil {
			return err
		}
		s.Families = append(s.Families, connectivity.Family(name))
	}
	if !prefixes.MatchString(o.prefix) {
		return usageError(fmt.Errorf("--namespace-prefix %q is no DNS label of up to 40 letters: use a-z, digits and dashes", o.prefix))
	}
	if _, err := labels.Parse(o.selector); err != nil {
		return usageError(fmt.Errorf("--node-selector: %w", err))
	}
	if o.options.Concurrency < 1 {
		return usageError(fmt.Errorf("--concurrency %d: one action at once is the least", o.options.Concurrency))
	}
	if o.options.Timeout <= 0 {
		return usageError(fmt.Errorf("--timeout %s: a run takes some time", o.options.Timeout))
	}
	if len(s.Take(connectivity.Actions())) == 0 {
		return usageError(errors.New("no action has such a name: 'weir connectivity test --list' shows them all (those of perf/ need --perf)"))
	}
	return nil
}

func (o *connectivityTest) do(cmd *cobra.Command) error {
	if err := o.check(); err != nil {
		return err
	}
	if o.list {
		return o.show(cmd.OutOrStdout())
	}
	p := &connectivityPrinter{out: cmd.OutOrStdout(), explain: o.explain, colour: o.output == "text" && colourful()}
	if o.output == "json" {
		p.out, p.colour = cmd.ErrOrStderr(), false
	}
	o.options.Agents = connectivity.Agents{Namespace: install.Namespace, Selector: install.AgentSelector()}
	o.options.Kube = kube.Options{Kubeconfig: o.cluster.kubeconfig, Context: o.cluster.context, Image: o.image, Prefix: o.prefix, Selector: o.selector, Look: o.dryRun}
	o.options.Live, o.options.Say = p.result, p.say
	witness, err := o.witness()
	if err != nil {
		return err
	}
	o.options.Witness = witness
	klog.SetLogger(klog.Logger{}) // client-go tells of each stream that is ended
	start := time.Now()
	run, err := connectivity.Open(cmd.Context(), o.options)
	if err != nil {
		return err
	}
	p.features(run.Features)
	if o.dryRun {
		return o.dry(cmd, p, run)
	}
	results, err := run.Do(cmd.Context())
	err = errors.Join(err, o.end(cmd, run, p))
	report := &connectivity.Report{Features: run.Features, Results: results, Seconds: time.Since(start).Seconds()}
	return o.tell(cmd, p, report, err)
}

// end removes what was made, or says how.
func (o *connectivityTest) end(cmd *cobra.Command, run *connectivity.Run, p *connectivityPrinter) error {
	if o.keep {
		run.Leave()
		p.say(fmt.Sprintf("everything is left there: 'kubectl get pods,services,networkpolicies -A' shows it, 'kubectl delete namespace -l %s' removes it, and so does the next run after %s",
			run.Selector(), run.Until().Format("15:04")))
		return nil
	}
	return run.Close(cmd.Context())
}

// tell writes the results wherever they are to be, and says whether all is well.
func (o *connectivityTest) tell(cmd *cobra.Command, p *connectivityPrinter, report *connectivity.Report, err error) error {
	if err != nil {
		report.Problem = tellSignal(cmd.Context(), err).Error()
	}
	if o.output == "json" {
		err = errors.Join(err, report.JSON(cmd.OutOrStdout()))
	}
	if o.junit != "" {
		err = errors.Join(err, writeFile(o.junit, report.JUnit))
	}
	if o.report != "" {
		err = errors.Join(err, writeReport(o.report, report))
	}
	tally := connectivity.Count(report.Results)
	p.summary(report, tally)
	if err == nil && tally.Passed+tally.Failed+tally.Flaky == 0 {
		err = errors.New("nothing was tested: every action was skipped")
	}
	if err != nil {
		tellError(cmd.ErrOrStderr(), tellSignal(cmd.Context(), err))
	}
	if err != nil || tally.Failed > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

// writeFile makes a file of what is written.
func writeFile(path string, write func(io.Writer) error) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}

// show lists the tests that are meant, and their actions.
func (o *connectivityTest) show(out io.Writer) error {
	actions := o.options.Selection.Take(connectivity.Actions())
	if o.output == "json" {
		all := make([]plannedAction, len(actions))
		for i := range actions {
			all[i] = plannedAction{Name: actions[i].Name(), Denied: actions[i].Denied}
		}
		return writePlan(out, connectivityPlan{Actions: all})
	}
	for _, t := range connectivity.Tests() {
		mine := slices.DeleteFunc(slices.Clone(actions), func(a connectivity.Action) bool { return a.Test != t.Name })
		if len(mine) == 0 {
			continue
		}
		fmt.Fprintf(out, "%s: %s\n", t.Name, t.About)
		for i := range mine {
			fmt.Fprintln(out, "  "+mine[i].Name())
		}
	}
	return nil
}

// plannedAction is an action of --list and --dry-run.
type plannedAction struct {
	Name   string `json:"name"`
	Denied bool   `json:"denied,omitempty"`
	Skip   string `json:"skip,omitempty"`
}

// connectivityPlan is what --list and --dry-run print as JSON.
type connectivityPlan struct {
	Features *connectivity.Features `json:"features,omitempty"`
	Actions  []plannedAction        `json:"actions"`
}

func writePlan(out io.Writer, plan connectivityPlan) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(plan)
}

// dry shows what would be done.
func (o *connectivityTest) dry(cmd *cobra.Command, p *connectivityPrinter, run *connectivity.Run) error {
	all := []plannedAction{}
	skipped := map[string]int{}
	for _, a := range run.Plan() {
		all = append(all, plannedAction{a.Name(), a.Denied, a.Lacks})
		if a.Lacks != "" {
			skipped[a.Lacks]++
		}
	}
	if o.output == "json" {
		return writePlan(cmd.OutOrStdout(), connectivityPlan{run.Features, all})
	}
	would := 0
	for _, a := range all {
		switch {
		case a.Skip == "":
			would++
			fmt.Fprintln(p.out, "would do", a.Name)
		case o.explain:
			fmt.Fprintf(p.out, "would skip %s: %s\n", a.Name, a.Skip)
		}
	}
	p.skips(skipped)
	fmt.Fprintf(p.out, "%d actions would be done, and nothing was made\n", would)
	return nil
}
