// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"golang.org/x/sync/errgroup"

	"github.com/weirnet/weir/lab/kube"
	"github.com/weirnet/weir/lab/probe"
)

// Options say what is tested and how.
type Options struct {
	Kube      kube.Options
	Selection Selection
	Agents    Agents // who is listened to where Weir runs
	Witness   Witness
	// Timeout is for the whole run without its end, in which everything is removed;
	// 0: none.
	Timeout time.Duration
	// Concurrency is how many actions run at once, policies' apart; 0: 8.
	Concurrency int
	// Attempts is how often a failed action is done again; one that succeeds then is
	// flaky.
	Attempts int
	// Live is told each result as it comes, and Say what goes on; nil: nobody is.
	Live func(Result)
	Say  func(string)
}

// leaseMargin is what is left of a lease when a run has to be at its end.
const leaseMargin = 5 * time.Minute

// Run is a test of a cluster.
type Run struct {
	Features *Features
	options  Options
	session  *kube.Session
	bed      *bed
	events   *events
	taken    atomic.Int32 // how often evidence was
	trial    error        // why it could not be tried whether policies hold

	mu      sync.Mutex
	results []Result
}

// Open reaches the cluster and finds out what it has, which makes nothing there. What
// runs before have left is removed, unless the options are to look only.
func Open(ctx context.Context, o Options) (*Run, error) {
	if o.Timeout > 0 {
		o.Kube.Lease = o.Timeout + leaseMargin
	}
	if o.Concurrency == 0 {
		o.Concurrency = 8
	}
	if o.Live == nil {
		o.Live = func(Result) {}
	}
	if o.Say == nil {
		o.Say = func(string) {}
	}
	session, err := kube.Open(ctx, o.Kube)
	if err != nil {
		return nil, err
	}
	features, err := detect(ctx, session)
	if err != nil {
		return nil, err
	}
	return &Run{Features: features, options: o, session: session, bed: newBed(session, features.Families)}, nil
}

// Planned is an action and why it cannot be; empty: it can.
type Planned struct {
	Action
	Lacks string
}

// Plan is what would be done, by what is known until now.
func (r *Run) Plan() (all []Planned) {
	for _, a := range r.options.Selection.Take(Actions()) {
		all = append(all, Planned{a, r.Features.Lacks(&a)})
	}
	return all
}

// Selector chooses the run's namespaces by their labels, and Until is when its lease
// is over.
func (r *Run) Selector() string { return r.session.Selector() }

// Until is when the next run may remove what this one has made.
func (r *Run) Until() time.Time { return r.session.Until() }

// Close removes everything that was made, even where ctx has ended.
func (r *Run) Close(ctx context.Context) error {
	r.bed.close()
	return r.session.Close(ctx)
}

// Leave ends what this process has open, and removes nothing.
func (r *Run) Leave() { r.bed.close() }

// errLate is of a run that took longer than it may.
var errLate = errors.New("the time is over")

// Do does what is planned. The error is of the run: that actions failed is in their
// results. Of actions that were not done there is none.
func (r *Run) Do(ctx context.Context) ([]Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if r.options.Timeout > 0 {
		defer time.AfterFunc(r.options.Timeout, func() { cancel(fmt.Errorf("%w: it is %s by --timeout", errLate, r.options.Timeout)) }).Stop()
	}
	planned := r.possible()
	if err := r.setUp(ctx, planned); err != nil {
		return r.results, cause(ctx, err)
	}
	planned = r.possible() // by what is known now
	for _, p := range r.Plan() {
		if p.Lacks != "" {
			r.tell(skipped(&p.Action, p.Lacks))
		}
	}
	r.events = r.watchEvents(ctx)
	r.doAll(ctx, cancel, planned)
	if ctx.Err() != nil {
		return r.results, fmt.Errorf("%w: %d of %d actions were done", context.Cause(ctx), r.done(), len(planned))
	}
	return r.results, nil
}

// cause puts why a context has ended into the place of that it has.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (r *Run) possible() (all []Action) {
	for _, p := range r.Plan() {
		if p.Lacks == "" {
			all = append(all, p.Action)
		}
	}
	return all
}

// setUp makes probes and services, and finds out what only they tell.
func (r *Run) setUp(ctx context.Context, actions []Action) error {
	start := time.Now()
	if err := r.bed.make(ctx, actions); err != nil {
		return err
	}
	r.Features.HostPods = r.bed.noHosts
	r.options.Say(fmt.Sprintf("%d probes run after %.1f s", len(r.bed.members), time.Since(start).Seconds()))
	return nil
}

// doAll does actions: those of policies test by test, all others as many at once as
// may be, and what is held meanwhile until all are done.
func (r *Run) doAll(ctx context.Context, stop context.CancelCauseFunc, actions []Action) {
	tests := map[string]Test{}
	for _, t := range Tests() {
		tests[t.Name] = t
	}
	var held, plain []Action
	var lanes [][]Action // of policies, by test
	for _, a := range actions {
		switch {
		case a.Verb == Hold:
			held = append(held, a)
		case !isPolicy(&a):
			plain = append(plain, a)
		case len(lanes) > 0 && lanes[len(lanes)-1][0].Test == a.Test:
			lanes[len(lanes)-1] = append(lanes[len(lanes)-1], a)
		default:
			lanes = append(lanes, []Action{a})
		}
	}
	rest := make(chan struct{})
	var holding, working sync.WaitGroup
	r.settle(ctx, slices.Concat(held, plain))
	for _, a := range held {
		holding.Go(func() { r.one(ctx, stop, &a, rest) })
	}
	working.Go(func() { r.many(ctx, stop, plain) })
	working.Go(func() {
		for _, lane := range lanes {
			if ctx.Err() == nil && r.enforced(ctx, lane) {
				r.underPolicies(ctx, stop, tests[lane[0].Test], lane)
			}
		}
	})
	working.Wait()
	close(rest)
	holding.Wait()
}

// isPolicy says whether an action is about the probes that policies are for.
func isPolicy(a *Action) bool {
	probes, _ := uses(a)
	return slices.ContainsFunc(probes, func(p string) bool { return seats[p].namespace == inPolicy })
}

// many does actions, as many at once as may be. What is measured waits until the
// others are done.
func (r *Run) many(ctx context.Context, stop context.CancelCauseFunc, actions []Action) {
	var g errgroup.Group
	g.SetLimit(r.options.Concurrency)
	var measured []Action
	for _, a := range actions {
		if slices.Contains(a.Needs, NeedPerf) {
			measured = append(measured, a)
			continue
		}
		g.Go(func() error { r.one(ctx, stop, &a, nil); return nil })
	}
	_ = g.Wait() // results have the errors
	for i := range measured {
		r.one(ctx, stop, &measured[i], nil)
	}
}

// one does an action, again if it may, and tells the result.
func (r *Run) one(ctx context.Context, stop context.CancelCauseFunc, a *Action, rest <-chan struct{}) {
	if ctx.Err() != nil {
		return
	}
	result := Result{Name: a.Name(), Test: a.Test, Case: a.Case, Family: a.Family, Denied: a.Denied}
	start := time.Now()
	d, err := r.bed.prepare(a)
	d.rest = rest
	result.What = d.String()
	if d.lacks != "" {
		r.tell(skipped(a, d.lacks))
		return
	}
	for err == nil {
		result.Attempts++
		from := time.Now()
		failed := d.do(ctx)
		result.Seconds = time.Since(from).Seconds()
		if ctx.Err() != nil {
			return // it was not done
		}
		if errors.Is(failed, probe.ErrGone) {
			if gone := r.apiGone(ctx); gone != nil {
				stop(gone)
				return
			}
		}
		if failed == nil {
			break
		}
		result.Errors = append(result.Errors, failed.Error())
		r.events.settle(ctx)
		result.Drops = append(result.Drops, r.events.drops(d, from)...)
		if result.Attempts > r.options.Attempts {
			err = failed
		}
	}
	if err != nil && result.Attempts > 0 {
		result.Evidence = r.evidence(ctx, d, start)
	}
	if len(d.values) > 0 {
		result.Values = d.values
	}
	switch {
	case err != nil && result.Attempts == 0: // it could not be done
		result.Seconds, result.Errors = time.Since(start).Seconds(), []string{err.Error()}
		result.Status = Failed
	case err != nil:
		result.Status = Failed
	case len(result.Errors) > 0:
		result.Status = Flaky
	default:
		result.Status = Passed
	}
	r.tell(result)
}

// apiGone says that the API server does not answer any more; nil: it does.
func (r *Run) apiGone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := r.session.Kube().CoreV1().Namespaces().List(ctx, metav1.ListOptions{Limit: 1}); err != nil {
		return fmt.Errorf("the API server %s went away, and the probes with it: %w", r.session.Host(), err)
	}
	return nil
}

func (r *Run) tell(result Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results = append(r.results, result)
	r.options.Live(result)
}

// done is how many actions were done.
func (r *Run) done() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.results {
		if r.results[i].Status != Skipped {
			n++
		}
	}
	return n
}

// settling is how long services and policies may take to be in force everywhere.
const settling = 15 * time.Second

// settle waits until what leads to servers does so: nodes learn of it a moment after
// the API. What does not settle fails as an action.
func (r *Run) settle(ctx context.Context, actions []Action) {
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(4 * r.options.Concurrency)
	seen := map[string]bool{}
	for _, a := range actions {
		key := fmt.Sprint(a.From, a.To, a.Family)
		if a.To.Kind == ToPod || a.To.Kind == ToNode || a.To.Kind == ToOutside || seen[key] {
			continue
		}
		seen[key] = true
		if !a.asksNames() {
			a.Verb = TCP
		}
		g.Go(func() error { r.await(ctx, &a); return nil })
	}
	_ = g.Wait()
}

// await does an action until it is as it has to be, or ctx ends.
func (r *Run) await(ctx context.Context, a *Action) {
	d, err := r.bed.prepare(a)
	if err != nil || d.lacks != "" {
		return
	}
	for ctx.Err() == nil {
		limited, cancel := context.WithTimeout(ctx, silence)
		err := d.do(limited)
		cancel()
		if err == nil || errors.Is(err, probe.ErrGone) {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond): // nobody tells when nodes have learnt of it
		}
	}
}

// enforced says whether policies hold for actions that need it, which is tried out
// where it is not known, beside all that needs none. Of actions that cannot be done it
// tells why.
func (r *Run) enforced(ctx context.Context, actions []Action) bool {
	if !slices.Contains(actions[0].Needs, NeedPolicies) {
		return true
	}
	if r.Features.Policies == Untried && r.trial == nil {
		var holds bool
		if holds, r.trial = r.session.EnforcesPolicies(ctx); ctx.Err() != nil {
			return false
		}
		if r.trial == nil {
			r.Features.Policies = map[bool]Enforced{true: Yes, false: No}[holds]
			r.options.Say(fmt.Sprintf("policies hold: %s", r.Features.Policies))
		}
	}
	for _, a := range actions {
		if r.trial != nil {
			r.tell(Result{Name: a.Name(), Test: a.Test, Case: a.Case, Family: a.Family, Denied: a.Denied, Status: Failed, Errors: []string{r.trial.Error()}})
		} else if why := r.Features.Lacks(&a); why != "" {
			r.tell(skipped(&a, why))
		}
	}
	return r.trial == nil && r.Features.Policies == Yes
}

// underPolicies does a test's actions while its policies are in force.
func (r *Run) underPolicies(ctx context.Context, stop context.CancelCauseFunc, t Test, actions []Action) {
	remove, problem := r.put(ctx, t)
	if problem != nil {
		if gone := r.apiGone(ctx); gone != nil {
			stop(gone)
			return
		}
		for _, a := range actions {
			if ctx.Err() == nil {
				r.tell(unmade(&a, problem))
			}
		}
	} else {
		r.inForce(ctx, actions)
		r.many(ctx, stop, actions)
	}
	if ctx.Err() != nil {
		return
	}
	if err := remove(ctx); err != nil && ctx.Err() == nil {
		stop(fmt.Errorf("remove the policies of %s: %w", t.Name, err))
	}
}

// unmade is an action whose policies cannot be made: it is skipped where they are not
// for the user to make.
func unmade(a *Action, problem error) Result {
	if apierrors.IsForbidden(problem) {
		return skipped(a, problem.Error())
	}
	return Result{Name: a.Name(), Test: a.Test, Case: a.Case, Family: a.Family, Denied: a.Denied, Status: Failed, Errors: []string{problem.Error()}}
}

// put makes a test's policies. Remove is for those that were made, whatever failed.
func (r *Run) put(ctx context.Context, t Test) (remove func(context.Context) error, problem error) {
	namespace := r.bed.namespaces[inPolicy]
	var made []func(context.Context) error
	remove = func(ctx context.Context) (err error) {
		for _, one := range made {
			err = errors.Join(err, one(ctx))
		}
		return err
	}
	others := slices.Clone(t.Others)
	for _, rule := range t.Rules {
		spec := rule(r.bed.addresses)
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&spec)
		if err != nil {
			return remove, fmt.Errorf("write a policy of %s: %w", t.Name, err)
		}
		others = append(others, Other{Kind: "NetworkPolicy", Spec: func(string) map[string]any { return content }})
	}
	for i, other := range others {
		one, err := r.session.Policy(ctx, other.Kind, namespace, fmt.Sprintf("%s-%d", t.Name, i+1), other.Spec(namespace))
		if err != nil {
			return remove, err
		}
		made = append(made, one)
	}
	return remove, nil
}

// inForce waits until all actions are as they have to be under the policies.
func (r *Run) inForce(ctx context.Context, actions []Action) {
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	var g errgroup.Group
	for i := range actions {
		g.Go(func() error { r.await(ctx, &actions[i]); return nil })
	}
	_ = g.Wait()
}
