// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/vmtest"
)

// attempt is one guest with one unit.
type attempt struct {
	*driver
	unit
	vm       *vmtest.Machine
	watcher  *watcher
	began    chan struct{}
	up       time.Time // since when the guest has answered; zero when that was told
	order    []string  // labels of the results, as they came
	results  map[string]scenarios.Result
	released map[string]bool
	problems []string // of the run as a whole
	finished bool     // the guest said so
	stderr   bytes.Buffer
}

// modules are those that worlds need. Loaded before the snapshot, they cost
// nothing; the kernel would ask for them.
var modules = []string{"veth", "sch_ingress", "cls_bpf"}

// stall is how long a guest may tell nothing: longer than a scenario may take,
// before both are stretched.
const stall = 3 * time.Minute

var errStalled = errors.New("the guest runs, but told nothing")

// attempt runs a unit in a guest, and gives what is left of it, or nil.
func (d *driver) attempt(ctx context.Context, u unit) *unit {
	a := &attempt{driver: d, unit: u, began: make(chan struct{}, 1), results: map[string]scenarios.Result{}, released: map[string]bool{}}
	a.watcher = newWatcher(a.began)
	err := a.run(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if errors.Is(err, vmtest.ErrNoQEMU) {
		d.stop(err)
		return nil
	}
	return a.settle(err)
}

// run gives the job to a guest, and returns when the guest is gone.
func (a *attempt) run(ctx context.Context) error {
	leave, err := a.room.enter(ctx, shares[a.world])
	if err != nil {
		return err
	}
	defer leave()
	service, err := a.service()
	if err != nil {
		return err
	}
	a.vm, err = vmtest.Start(ctx, a.kernel, vmtest.Options{
		Modules: modules, Memory: memory(a.cover), Service: service, Console: a.watcher, Progress: a.Progress,
	})
	if err != nil {
		return err
	}
	a.up = time.Now()
	defer a.vm.Close()
	// Whoever stops the matrix does not wait for the guest's politeness.
	defer context.AfterFunc(ctx, func() { a.vm.Close() })()
	command, err := a.command()
	if err != nil {
		return err
	}
	out, in := io.Pipe()
	command.Stdout, command.Stderr = in, &a.stderr
	messages := make(chan message)
	go decode(out, messages)
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		result, err := a.vm.Continue(running, command)
		if err == nil && result.ExitCode != 0 {
			err = fmt.Errorf("the guest's program ended with code %d", result.ExitCode)
		}
		in.Close()
		ended <- err
	}()
	return a.follow(messages, ended, cancel)
}

func (a *attempt) command() (*vmtest.Command, error) {
	j := job{Sources: a.sources, World: a.world, Names: a.names, Slowdown: a.vm.Slowdown, Costs: a.costs, Cover: a.cover}
	text, err := json.Marshal(j)
	if err != nil {
		return nil, fmt.Errorf("write job: %w", err)
	}
	return &vmtest.Command{Stdin: bytes.NewReader(text)}, nil
}

// service is this program, which loads what runs share and waits for a job. It
// is in the snapshot: each guest goes on from there.
func (a *attempt) service() (*vmtest.Command, error) {
	arguments := []string{"scenario", "guest", "--world", string(a.world)}
	if a.cover {
		arguments = append(arguments, "--cover")
	}
	command, err := vmtest.HostCommand(a.program, arguments...)
	if err != nil {
		return nil, err
	}
	// Preempting goroutines by signals is a tenth of the work of an emulated processor.
	command.Env = append(vmtest.DefaultEnv(), "GODEBUG=asyncpreemptoff=1")
	if config := filepath.Join(a.kernel.Dir, "config"); len(a.kernel.Config) > 0 {
		command.Files = append(command.Files, vmtest.File{Path: "/boot/config-" + a.kernel.Release, Source: config})
	}
	return command, nil
}

func decode(in io.Reader, messages chan<- message) {
	defer close(messages)
	decoder := json.NewDecoder(in)
	for {
		var m message
		if err := decoder.Decode(&m); err != nil {
			// What comes after has no meaning; the end of the guest tells why.
			io.Copy(io.Discard, in)
			return
		}
		messages <- m
	}
}

// follow takes what the guest tells, until it has ended.
func (a *attempt) follow(messages <-chan message, ended <-chan error, cancel func()) error {
	patience := time.Duration(float64(stall) * a.vm.Slowdown)
	silence := time.NewTimer(patience)
	defer silence.Stop()
	var stalled error
	for {
		select {
		case m, open := <-messages:
			if !open {
				messages = nil
				continue
			}
			silence.Reset(patience)
			a.take(&m)
		case <-a.began:
			if len(a.vm.Splats()) > 0 {
				cancel() // no more of it; the end of the run brings the kernel's words
				continue
			}
			a.ready()
			a.release(a.watcher.over)
		case <-silence.C:
			stalled = fmt.Errorf("%w for %s", errStalled, patience.Round(time.Second))
			a.vm.Close()
		case err := <-ended:
			a.takeAll(messages)
			if stalled != nil {
				return stalled
			}
			return err
		}
	}
}

// ready tells, once, what it took until a run began.
func (a *attempt) ready() {
	if a.up.IsZero() {
		return
	}
	a.addStart(a.kernel, Start{
		World: a.world, Warm: a.vm.Warm, Boot: a.vm.Started.Seconds(), Ready: time.Since(a.up).Seconds(),
	})
	a.up = time.Time{}
}

// takeAll takes what is left until the end, if that has not come.
func (a *attempt) takeAll(messages <-chan message) {
	if messages == nil {
		return
	}
	for m := range messages {
		a.take(&m)
	}
}

func (a *attempt) take(m *message) {
	switch {
	case m.Result != nil:
		r := m.result()
		name := label(r)
		if _, wanted := a.planned[name]; !wanted || !slices.Contains(a.names, r.Scenario) {
			a.problems = append(a.problems, "a guest told of "+name+", which it was not asked for")
			return
		}
		a.order = append(a.order, name)
		a.results[name] = r
	case m.Costs != nil:
		a.addCosts(a.kernel, m.Costs)
		a.costs = false
	case m.Problem != "":
		a.problems = append(a.problems, m.Problem)
	case m.Done:
		a.finished = true
	}
}

// release gives out the results that may be.
func (a *attempt) release(may func(label string) bool) {
	for _, name := range a.order {
		if !a.released[name] && may(name) {
			a.released[name] = true
			a.deliver(a.kernel, a.results[name])
		}
	}
}

// settle draws the conclusion when the guest is gone, and gives what has to
// be run again in another one, or nil.
func (a *attempt) settle(err error) *unit {
	splats, log := a.complaints()
	if len(splats) == 0 && !errors.Is(err, vmtest.ErrBroken) && a.finished && len(a.results) == len(a.names) {
		a.release(func(string) bool { return true })
		if err != nil {
			a.problems = append(a.problems, err.Error())
		}
		for _, p := range a.problems {
			a.problem(a.kernel, p)
		}
		return nil
	}
	title := ""
	if len(splats) > 0 {
		title = splats[0].Title
	}
	culprit := blame(log, title)
	a.releaseBefore(culprit)
	outcome, reason, words := a.verdict(err, splats)
	left := a.unit
	left.names = nil
	for _, name := range a.names {
		l := string(a.world) + " " + name
		switch {
		case a.released[l]:
		case l == culprit:
			a.deliver(a.kernel, a.broken(l, outcome, reason, words))
		default:
			left.names = append(left.names, name)
		}
	}
	if len(left.names) == len(a.names) {
		left.failed++
	}
	if left.failed > 1 { // and would again
		for _, name := range left.names {
			a.deliver(a.kernel, a.broken(string(a.world)+" "+name, scenarios.Broken, reason, words))
		}
		return nil
	}
	if len(left.names) == 0 {
		return nil
	}
	if a.Progress != nil {
		a.Progress.Step(fmt.Sprintf("%s: %s; another guest runs the %d scenarios that are left", a.kernel.ID, reason, len(left.names)))
	}
	return &left
}

func (a *attempt) complaints() ([]vmtest.Splat, string) {
	if a.vm == nil {
		return nil, ""
	}
	return a.vm.Splats(), a.vm.Console()
}

// releaseBefore gives out the results of what had ended when the culprit
// began. Without one, of nothing more.
func (a *attempt) releaseBefore(culprit string) {
	at := slices.Index(a.order, culprit)
	if at < 0 && culprit != "" {
		at = len(a.order)
	}
	before := a.order[:max(at, 0)]
	a.release(func(name string) bool { return slices.Contains(before, name) })
}

// verdict tells why a guest had no good end. That the kernel complained is a
// failure; all else is the lab's.
func (a *attempt) verdict(err error, splats []vmtest.Splat) (outcome scenarios.Outcome, reason, words string) {
	outcome = scenarios.Broken
	switch {
	case len(splats) > 0:
		outcome = scenarios.Fail
		reason, words = "the kernel complained: "+splats[0].String(), "the kernel complained:\n"+splats[0].Text
	case len(a.problems) > 0:
		reason, words = firstLine(a.problems[0]), strings.Join(a.problems, "\n")
	case err != nil:
		reason, words = firstLine(err.Error()), fmt.Sprintf("%+v", err)
	default:
		reason = "the guest ended before it had told all results"
		words = reason
	}
	if said := strings.TrimSpace(a.stderr.String()); said != "" {
		words = strings.TrimRight(words, "\n") + "\nits program said:\n" + said[max(0, len(said)-lastWords):]
	}
	return outcome, reason, strings.TrimRight(words, "\n")
}

// lastWords is how much of a program's standard error is told, in bytes.
const lastWords = 8 << 10

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
