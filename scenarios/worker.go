// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"sync"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf/cover"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/kube"
	"github.com/weirnet/weir/lab/prog"
)

// worker runs one scenario after the other. Where what they reach is counted,
// it has counters of its own, and programs that only its runs use.
type worker struct {
	*machine
	edit     func(*ebpf.CollectionSpec) error
	objects  datapath.Options // of datapaths in world netns: the objects to load
	prog     *progPool
	counters *cover.Counters // nil: nothing is counted
	live     *kube.World     // of a scenario whose other family comes next, or nil
	lives    *Scenario
}

func (m *machine) newWorker() *worker {
	w := &worker{machine: m, edit: m.Edit, prog: m.prog, objects: m.Files.Options()}
	switch {
	case !m.Cover:
	case m.Warm != nil && m.Warm.counters != nil:
		w.counters = m.Warm.counters
	default:
		w.counters = m.lives.Counters()
		if m.WithoutLives {
			w.counters = cover.New()
		}
		w.edit = w.count
		w.prog = newProgPool(1, m.options(w.edit))
	}
	return w
}

// count puts counters into programs, after what else is changed in them.
func (w *worker) count(spec *ebpf.CollectionSpec) error {
	if w.Edit != nil {
		if err := w.Edit(spec); err != nil {
			return err
		}
	}
	return w.counters.Edit(spec)
}

func (w *worker) close() {
	if w.counters == nil {
		return
	}
	if w.prog != w.machine.prog {
		w.prog.close()
	}
	// Maps that stay open show as a leak.
	_ = w.counters.Close()
}

// progPool is made when it is first used.
type progPool struct {
	get func() (*prog.Pool, error)

	mu   sync.Mutex
	pool *prog.Pool // nil before
}

func newProgPool(workers int, options datapath.Options) *progPool {
	p := &progPool{}
	p.get = sync.OnceValues(func() (*prog.Pool, error) {
		pool, err := prog.NewPool(workers, options)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.pool = pool
		return pool, err
	})
	return p
}

func (p *progPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pool != nil {
		p.pool.Close()
	}
}
