// SPDX-License-Identifier: Apache-2.0

// Package agent keeps a node's datapath equal to its cluster: it watches the
// cluster's objects, compiles them, and applies what comes out; and it serves
// the CNI plugin, which connects the node's pods.
//
// It decides nothing about packets, and the datapath goes on without it. Its
// one invariant: a pod is said to be connected only when the datapath has it.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/config"
	"github.com/weirnet/weir/agent/endpoints"
	"github.com/weirnet/weir/agent/healthcheck"
	"github.com/weirnet/weir/agent/inputs"
	"github.com/weirnet/weir/agent/routes"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/model"
)

// Source is where the cluster's objects come from.
type Source interface {
	// Inputs are the tables that the source writes.
	Inputs() *inputs.Inputs
	// Errors are the kinds that cannot be watched now.
	Errors() (errs map[string]error, since map[string]time.Time)
	// Run watches until ctx ends.
	Run(ctx context.Context)
	// WaitForSync waits until everything was read once.
	WaitForSync(ctx context.Context) error
}

// Options are of one agent.
type Options struct {
	Node    string // the node's name in the cluster
	Version string // for people
	Paths   Paths
	Config  config.Config
	// Source makes the source, which calls changed when something has. It must
	// not block.
	Source func(changed func()) (Source, error)
	// Identities makes the numbers that nodes share, which call changed when
	// those in force have, and report with what fails. Neither may block. Nil:
	// the node numbers alone.
	Identities func(changed func(), report func(error)) (Identities, error)
	// Events tells the cluster that an object is refused. Nil: nobody is told.
	Events func(api.Refused)
	// Metrics is where Prometheus asks, host:port. Empty: nowhere.
	Metrics string
	Log     *slog.Logger
	// Patience is how long a pod's object may be on its way from the API when
	// the pod is connected; 0: DefaultPatience.
	Patience time.Duration
	// Datapath are changed for tests. PinPath and Attach are set.
	Datapath datapath.Options
}

// DefaultPatience leaves the runtime time to ask again.
const DefaultPatience = 30 * time.Second

// Agent runs on a node.
type Agent struct {
	opts       Options
	log        *slog.Logger
	source     Source
	store      *endpoints.Store
	datapath   *datapath.Datapath
	health     healthcheck.Server
	identities *model.Allocator
	budgets    model.Budgets
	shared     Identities // nil: the node numbers alone
	started    time.Time
	monitor    monitor

	changed chan struct{} // the cluster has: soon
	urgent  chan struct{} // a pod waits: now
	waiting chan struct{} // a pod may wait for a pass that is applied

	// stale is whether the node's kernel may have other devices, addresses or
	// default routes than when it was looked at, or something is to be mended.
	stale atomic.Bool
	// left is whether the datapath has an endpoint that was connected beside a pass,
	// and that nobody wants any more.
	left atomic.Bool

	// deletionsRead is when their directory had changed that was read last. The loop's.
	deletionsRead time.Time

	// reconciling is the turn of a pass, which looks, compiles and applies. Only
	// passes take it: a pod that is to be connected waits for none that applies.
	reconciling sync.Mutex
	enforced    enforced

	// compiling is held to look at the node and to compile, by a pass or for a pod
	// that waits for one.
	compiling sync.Mutex
	kept      kept

	// deleting is held to do a deletion that was left while no agent answered, or to
	// take it back: an endpoint that is asked for again meanwhile stays.
	deleting sync.Mutex

	// mu guards what follows, and is held for memory alone: nobody asks the kernel
	// or the API, or walks a state, while others wait for a status.
	mu       sync.Mutex
	state    *model.State  // in force; written by passes alone
	turned   chan struct{} // closed when what follows has changed
	applying bool          // a pass is
	waiters  map[api.Attachment]int
	ahead    map[api.Attachment]inForce // connected beside a pass that did not know of them
	inForce  map[api.Attachment]inForce
	deleted  map[string]time.Time // containers whose endpoints the runtime had taken away, since when
	status   api.Status
	problems map[string]api.Problem
	flows    datapath.Collected

	// filling is the turn of who counts what is in force, and guards what it
	// remembers.
	filling  sync.Mutex
	full     map[string]bool // tables of which it was told
	filled   map[model.Table]int
	numbered int          // identities
	counted  *model.State // what was counted
}

// enforced is what the last pass has put into force.
type enforced struct {
	whole  uint64 // of the state in force
	looks  uint64 // those after which health checks were answered
	told   uint64 // and the network's configuration written
	checks uint64
	owns   uint64
	wired  *model.State // by what devices are up, and routes are made; nil: not all are
	routes []routes.Route
}

// inForce is an endpoint in the datapath.
type inForce struct {
	ifindex  int
	identity model.Identity
	ruleSet  string
}

// Run runs an agent until ctx ends. The datapath goes on after it.
func Run(ctx context.Context, opts Options) error {
	a := &Agent{
		opts: opts, log: opts.Log, started: time.Now(), identities: model.NewAllocator(),
		changed: make(chan struct{}, 1), urgent: make(chan struct{}, 1), waiting: make(chan struct{}, 1), turned: make(chan struct{}),
		waiters: map[api.Attachment]int{}, ahead: map[api.Attachment]inForce{}, inForce: map[api.Attachment]inForce{}, deleted: map[string]time.Time{}, problems: map[string]api.Problem{}, full: map[string]bool{},
	}
	a.stale.Store(true)
	if a.opts.Patience == 0 {
		a.opts.Patience = DefaultPatience
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if err := a.open(ctx); err != nil {
		return err
	}
	return errors.Join(a.run(ctx), a.health.Close(), a.datapath.Close())
}

// open takes over what an earlier agent has left: the datapath goes on.
func (a *Agent) open(ctx context.Context) (err error) {
	if a.opts.Node == "" {
		return errors.New("run the agent: the node has no name: set NODE_NAME to the pod's spec.nodeName, or use --node")
	}
	a.status = api.Status{Node: a.opts.Node, Version: a.opts.Version, Kernel: kernelRelease(), Started: a.started}
	if a.store, err = endpoints.Open(a.opts.Paths.StateDir); a.store == nil {
		return err
	} else if err != nil {
		a.log.Warn("some records of endpoints are lost", "error", err)
	}
	a.source, err = a.opts.Source(a.kick)
	if err != nil {
		return err
	}
	a.kept.cluster, a.kept.checks = newCluster(a.source.Inputs(), a.opts.Node), newHealthChecks(a.opts.Node)
	if err := a.openIdentities(); err != nil {
		return err
	}
	if err := mountBPF(a.opts.Paths.Pins); err != nil {
		return err
	}
	return a.openDatapath(ctx)
}

// forDatapath is how an agent opens its datapath.
func (o *Options) forDatapath(room map[string]uint32) datapath.Options {
	options := o.Datapath
	options.Room = o.Config.Room(room)
	options.PinPath, options.Attach = o.Paths.Pins, true
	options.Lifetimes = o.Config.FlowLifetimes
	options.Refusals = o.Config.Refusals
	if o.Paths.HostRoot != "" {
		options.Cgroup = findCgroup(o.Paths.HostRoot)
	}
	return options
}

// openDatapath waits for an agent before this one to end.
func (a *Agent) openDatapath(ctx context.Context) (err error) {
	room, err := datapath.DefaultRoom()
	if err != nil {
		return err
	}
	a.budgets = a.opts.Config.Budgets(room)
	options := a.opts.forDatapath(room)
	if a.opts.Paths.HostRoot != "" && options.Cgroup == "" {
		a.log.Warn("the node has no cgroup2 hierarchy: its own sockets reach services by packets alone, and not those that the node serves itself")
	}
	deadline := time.After(lockPatience)
	for {
		a.datapath, err = datapath.Open(options)
		if !errors.Is(err, datapath.ErrLocked) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return fmt.Errorf("open the datapath: %w: end that process", err)
		case <-time.After(lockInterval):
		}
	}
	if err != nil {
		return fmt.Errorf("open the datapath: %w", err)
	}
	a.status.Attachment = a.datapath.Attachment()
	return nil
}

const (
	lockPatience = 60 * time.Second
	lockInterval = 200 * time.Millisecond
)

func (a *Agent) run(ctx context.Context) error {
	// Whatever ends first ends the others.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var parts sync.WaitGroup
	defer parts.Wait()
	start := func(part func(context.Context) error) {
		parts.Go(func() {
			if err := part(ctx); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	start(func(ctx context.Context) error { a.source.Run(ctx); return nil })
	start(a.runIdentities)
	start(a.serve)
	start(a.serveMetrics)
	start(a.collect)
	start(a.watchEvents)
	start(a.watchKernel)
	start(a.hasten)
	start(a.repair)
	if err := a.source.WaitForSync(ctx); err != nil {
		if errors.Is(context.Cause(ctx), context.Canceled) {
			return nil
		}
		return err
	}
	a.waitForIdentities(ctx)
	a.log.Info("the cluster's objects are read")
	a.acceptDeletions()
	a.forgetGone()
	a.report("remove devices of nobody", a.removeOrphans())
	a.loop(ctx)
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// kick has the datapath changed soon.
func (a *Agent) kick() {
	nudge(a.changed)
	if a.isLate() {
		nudge(a.waiting)
	}
}

// hurry has it changed at once, after another look at the node.
func (a *Agent) hurry() {
	a.stale.Store(true)
	nudge(a.urgent)
	nudge(a.waiting)
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// One change is applied at once. Those that follow are taken together: the next
// pass waits for some times the CPU time that the last one took, so that the agent
// takes its part of a core and no more, however much changes.
const (
	leastPause   = 20 * time.Millisecond
	longestPause = 500 * time.Millisecond
	pauseTimes   = 4
	// Somebody may have removed a route or a device.
	mendInterval  = 30 * time.Second
	retryInterval = 2 * time.Second
)

func (a *Agent) loop(ctx context.Context) {
	a.hurry()
	mend := time.NewTimer(mendInterval)
	defer mend.Stop()
	var pause <-chan time.Time // until it ends, only what is urgent is done
	changed := a.changed
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause:
			pause, changed = nil, a.changed
			continue
		case <-a.urgent:
		case <-changed:
		case <-mend.C:
			a.stale.Store(true)
			mend.Reset(mendInterval)
		}
		took, err := a.pass()
		if err != nil {
			a.log.Error("the datapath is not what the cluster wants", "error", err)
			a.stale.Store(true)
			mend.Reset(retryInterval)
		}
		pause, changed = time.After(min(max(pauseTimes*took, leastPause), longestPause)), nil
	}
}

// pass has a thread of its own, whose time it takes: the collector of garbage has
// others. Between passes none is kept, which would have to be woken.
func (a *Agent) pass() (took time.Duration, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := cpuTime()
	a.acceptDeletions()
	err = a.reconcile()
	return cpuTime() - before, err
}

// cpuTime is what the thread has used.
func cpuTime() time.Duration {
	var used unix.Rusage
	if unix.Getrusage(unix.RUSAGE_THREAD, &used) != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

const collectInterval = 5 * time.Second

// collect deletes flows that are over.
func (a *Agent) collect(ctx context.Context) error {
	everyTick(ctx, collectInterval, func() {
		collected, err := a.datapath.Collect()
		a.report("collect flows", err)
		a.noteFill(collected)
	})
	return nil
}

// everyTick calls do at an interval, until the context is over.
func everyTick(ctx context.Context, interval time.Duration, do func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			do()
		}
	}
}

// report keeps what fails, until it does not any more.
func (a *Agent) report(what string, err error) {
	if a.noteProblem(what, err) {
		a.log.Error(what, "error", err)
	}
}

// noteProblem says whether it is news.
func (a *Agent) noteProblem(what string, err error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, failed := a.problems[what]
	switch {
	case err == nil:
		delete(a.problems, what)
		return false
	case failed && old.Error == err.Error():
		return false
	}
	since := old.Since
	if !failed {
		since = time.Now()
	}
	a.problems[what] = api.Problem{What: what, Error: err.Error(), Since: since}
	return true
}
