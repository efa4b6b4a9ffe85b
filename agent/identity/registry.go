// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"

	"github.com/weirnet/weir/model"
)

// Options are of one agent's registry.
type Options struct {
	Node   string
	Client dynamic.Interface
	// Unused is how long labels are without pods before their number is free;
	// 0: DefaultUnused.
	Unused time.Duration
	// Changed is called after numbers in force have. It must not block.
	Changed func()
	// Report is told again and again what fails; nil: nothing does.
	Report func(error)
}

// DefaultUnused leaves time to those who were away.
const DefaultUnused = 10 * time.Minute

// Registry is one agent's part in numbering. Its methods may be called by
// several goroutines.
type Registry struct {
	opts   Options
	client dynamic.ResourceInterface
	source *source
	work   chan struct{} // labels of pods here may want a number

	mu       sync.Mutex
	table    *table
	used     time.Time // when labels were looked at last; zero: never
	problems problems
	unused   map[string]time.Time // since when, by UID
}

// New makes a Registry that has not begun.
func New(opts Options) (*Registry, error) {
	if opts.Unused == 0 {
		opts.Unused = DefaultUnused
	}
	if opts.Unused < time.Second {
		return nil, fmt.Errorf("share identities: they are free after %s without a pod: make it a second at least", opts.Unused)
	}
	r := &Registry{
		opts: opts, client: opts.Client.Resource(Resource()), work: make(chan struct{}, 1),
		table: newTable(), problems: problems{}, unused: map[string]time.Time{},
	}
	var err error
	r.source, err = newSource(r)
	return r, err
}

// Run takes part until ctx ends.
func (r *Registry) Run(ctx context.Context) {
	var parts sync.WaitGroup
	parts.Go(func() { r.source.informer.RunWithContext(ctx) })
	parts.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), r.source.synced) {
			r.wake()
		}
		r.claimAll(ctx)
	})
	parts.Go(func() { r.collectAll(ctx) })
	r.tell(ctx)
	parts.Wait()
}

// syncPatience is how long an agent waits for numbers: a node's pods wait with
// it.
const syncPatience = 10 * time.Second

// WaitForSync waits until the numbers were read once, or cannot be.
func (r *Registry) WaitForSync(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, syncPatience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !r.source.synced() && !r.isRefused() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// isRefused says whether the API has no numbers for us.
func (r *Registry) isRefused() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, found := r.problems[watching]
	return found && (apierrors.IsNotFound(p.err) || apierrors.IsForbidden(p.err))
}

// Numbers gives those that labels have, by LabelSet.Key, each once. The map
// does not change any more.
func (r *Registry) Numbers() map[string]model.Identity {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.table.numbers()
}

// Use says what all pods of the cluster are known by now. The map is kept.
func (r *Registry) Use(wanted map[string]model.WantedIdentity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used = time.Now()
	if r.table.want(wanted) {
		r.opts.Changed()
	}
	if len(r.table.missing()) > 0 {
		r.wake()
	}
}

// Count gives how many numbers the cluster has, and how many sets of labels
// have a number of this node alone.
func (r *Registry) Count() (shared, local int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.table.wanted {
		if w.Number != model.IdentityUnknown && !w.Number.IsShared() {
			local++
		}
	}
	return len(r.table.live), local
}

// What may fail.
type step string

const (
	watching step = "watch"
	creating step = "create"
	deleting step = "delete"
)

type problems map[step]problem

type problem struct {
	err   error
	since time.Time
}

// note keeps what fails, or does not any more.
func (r *Registry) note(s step, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	since := time.Now()
	if old, found := r.problems[s]; found {
		since = old.since
	}
	if err == nil {
		delete(r.problems, s)
		return
	}
	r.problems[s] = problem{err, since}
}

const (
	// An API server that restarts is no problem.
	reportPatience = 30 * time.Second
	reportInterval = 2 * time.Second
)

// tell reports what has failed for long, in a sentence that stays the same.
func (r *Registry) tell(ctx context.Context) {
	tick := time.NewTicker(reportInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.opts.Report(r.problem())
		}
	}
}

func (r *Registry) problem() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range []step{watching, creating, deleting} {
		if p, found := r.problems[s]; found && time.Since(p.since) >= reportPatience {
			return fmt.Errorf("%s %s.%s: %w", s, Plural, Group, sentence(p.err))
		}
	}
	return nil
}

// Errors that are told.
var (
	ErrNoKind    = errors.New("the cluster does not have the kind, and new numbers are this node's own: run 'weir install' again")
	ErrForbidden = errors.New("the agent may not, and new numbers are this node's own: run 'weir install' again")
	ErrExhausted = fmt.Errorf("all %d numbers are taken, and further ones are this node's own: use fewer distinct labels", room)
	ErrChanged   = errors.New("the cluster's kind is of another version and does not keep all that tells labels apart: new numbers are this node's own: run 'weir install' again")
	ErrSilent    = errors.New("the API server does not answer: numbers stay, and new ones are this node's own until it does")
)

// sentence leaves out what differs each time.
func sentence(err error) error {
	var status apierrors.APIStatus
	switch {
	case errors.Is(err, ErrExhausted):
		return ErrExhausted
	case errors.Is(err, ErrChanged):
		return ErrChanged
	case apierrors.IsForbidden(err):
		return ErrForbidden
	case apierrors.IsNotFound(err):
		return ErrNoKind
	case !errors.As(err, &status) || apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err):
		return ErrSilent
	}
	return err
}

// requestPatience ends a request to an API server that is not there.
const requestPatience = 10 * time.Second

// take puts an object of the API's in, and says whether a number in force
// changed.
func (r *Registry) take(object *record) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.table.put(object)
}

func (r *Registry) lose(object *record) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.table.remove(object, time.Now())
}

func nameOf(number model.Identity) string { return strconv.FormatUint(uint64(number), 10) }
