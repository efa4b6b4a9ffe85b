// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/phase"
)

// ErrStained is a datapath that still had something of the world before, and
// was thrown away.
var ErrStained = errors.New("a used datapath was not as new")

// Pool builds worlds that share opened datapaths, one after another: loading
// the programs is most of what a world costs, on a slow machine most of a
// second.
//
// Nothing else is shared. Namespaces cost next to nothing to make and a few
// RCU grace periods to clean, so each world has new ones, the node's too, and
// with them new devices, routes, neighbours, sockets and sysctls. A datapath
// is taken off the devices of one world and emptied before the next world
// gets it, is compared then with one just opened, and is thrown away when it
// differs.
type Pool struct {
	size int           // of stocks
	over chan struct{} // closed by Close

	retiring sync.WaitGroup

	mu     sync.Mutex
	stocks map[string]stocks // by the features that programs do without
	opened int
	errs   []error
}

// stocks are datapaths that wait for worlds. A world takes those of its other
// nodes when it has one for its first, so that no two worlds each wait for
// what the other has.
type stocks struct{ first, more *stock }

func newStocks(size int, without []string) stocks {
	return stocks{newStock(size, without), newStock(size*moreNodes, without)}
}

type stock struct {
	without []string      // features that the programs have, and do not use
	ready   chan pooled   // emptied
	room    chan struct{} // for those that may still be opened
}

// pooled is a datapath, with a cgroup whose sockets it leads in the worlds that ask
// for it.
type pooled struct {
	datapath *datapath.Datapath
	cgroup   *cgroup
}

// remove is called on a thread in a namespace where the datapath may be attached.
func (p pooled) remove() error {
	return errors.Join(p.datapath.Remove(), p.cgroup.close())
}

// moreNodes is how many nodes a world of a Pool may have besides the first.
const moreNodes = 7

func newStock(size int, without []string) *stock {
	s := &stock{without: without, ready: make(chan pooled, size), room: make(chan struct{}, size)}
	for range size {
		s.room <- struct{}{}
	}
	return s
}

// NewPool makes a pool of so many datapaths for as many worlds at once, and of
// more for worlds of several nodes. They are opened as worlds need them. The
// caller closes it.
func NewPool(size int) *Pool {
	return &Pool{size: size, over: make(chan struct{}), stocks: map[string]stocks{}}
}

// Fill opens what a world of so many nodes takes, so that worlds do not wait for
// it.
func (p *Pool) Fill(ctx context.Context, nodes int) error {
	ns, err := newNamespace(nil)
	if err != nil {
		return fmt.Errorf("fill pool: %w", err)
	}
	defer ns.close()
	for n := range nodes {
		s := p.stock(n == 0, nil)
		<-s.room
		one, err := p.open(ctx, s, ns)
		if err != nil {
			return fmt.Errorf("fill pool: %w", err)
		}
		s.ready <- one
		// As after a world: it is free for another namespace.
		err = ns.run(func() error { return errors.Join(one.datapath.LoadAll(), one.datapath.Reset()) })
		if err != nil {
			return fmt.Errorf("fill pool: %w", err)
		}
	}
	return nil
}

// New builds a world as the function New does. With options that need a
// datapath of their own, the world has nothing to do with the pool. Else it
// waits until a datapath is free; it is the pool's again after Close, which
// returns before everything is removed.
func (p *Pool) New(ctx context.Context, topology lab.Topology, options Options) (*World, error) {
	if !shares(options) {
		return New(ctx, topology, options)
	}
	select {
	case <-p.over:
		return nil, fmt.Errorf("build world: the pool is closed: %w", net.ErrClosed)
	default:
	}
	return newStarted(ctx, topology, options, p)
}

// shares says whether a world can do with a datapath of the pool: one of the features
// that it does without.
func shares(o Options) bool {
	o.Datapath.Without = nil
	return !o.Keep && !o.Pin && !o.Plain && reflect.ValueOf(o.Datapath).IsZero()
}

// inPrograms are those of some features that are in programs: how these are attached
// is chosen for each world.
func inPrograms(without []string) []string {
	return slices.DeleteFunc(slices.Clone(without), func(f string) bool { return f == datapath.FeatureTCX })
}

// lend gives each node a datapath that is as new, and a cgroup if their sockets
// are to have programs.
func (p *Pool) lend(ctx context.Context, nodes []*node, sockets bool, o Options) error {
	if len(nodes) > 1+moreNodes {
		return fmt.Errorf("lend datapaths: %d nodes are more than the %d that a pool has room for", len(nodes), 1+moreNodes)
	}
	for _, n := range nodes {
		one, err := p.take(ctx, p.stock(n == nodes[0], o.Datapath.Without), n.ns)
		if err != nil {
			return fmt.Errorf("lend a datapath to %s: %w", n.name, err)
		}
		n.datapath, n.lent = one.datapath, one.cgroup
		if sockets {
			n.cgroup = one.cgroup
		}
		clsact := o.Clsact || slices.Contains(o.Datapath.Without, datapath.FeatureTCX)
		if err := errors.Join(n.datapath.ByClsact(clsact), n.datapath.LeadSockets(sockets)); err != nil {
			return fmt.Errorf("lend a datapath to %s: %w", n.name, err)
		}
	}
	return nil
}

// stock has the datapaths of first nodes, or those of the others, that do without some
// features.
func (p *Pool) stock(first bool, without []string) *stock {
	without = inPrograms(without)
	key := strings.Join(without, " ")
	p.mu.Lock()
	defer p.mu.Unlock()
	all, found := p.stocks[key]
	if !found {
		all = newStocks(p.size, without)
		p.stocks[key] = all
	}
	if first {
		return all.first
	}
	return all.more
}

// take gives a datapath that is as new, or opens one in a namespace.
func (p *Pool) take(ctx context.Context, s *stock, ns *namespace) (pooled, error) {
	defer phase.Start(ctx, phase.Queue)()
	for {
		select { // One that is there is better than room for one.
		case d := <-s.ready:
			if p.asNew(ctx, s, ns, d) {
				return d, nil
			}
			continue
		default:
		}
		select {
		case d := <-s.ready:
			if p.asNew(ctx, s, ns, d) {
				return d, nil
			}
		case <-s.room:
			return p.open(ctx, s, ns)
		case <-ctx.Done():
			return pooled{}, fmt.Errorf("wait for a free datapath: %w", ctx.Err())
		}
	}
}

func (p *Pool) open(ctx context.Context, s *stock, ns *namespace) (one pooled, err error) {
	defer phase.Start(ctx, phase.Load)()
	p.mu.Lock()
	p.opened++
	p.mu.Unlock()
	options := ofWorld(datapath.Options{Without: s.without})
	if one.cgroup, err = newCgroup(); err != nil {
		s.room <- struct{}{}
		return pooled{}, err
	}
	one.cgroup.lead(&options)
	err = ns.run(func() (err error) {
		one.datapath, err = datapath.Open(options)
		return err
	})
	if err != nil {
		s.room <- struct{}{}
		return pooled{}, errors.Join(err, one.cgroup.close())
	}
	return one, nil
}

// asNew compares a datapath with one just opened, and throws it away if it is
// not like that.
func (p *Pool) asNew(ctx context.Context, s *stock, ns *namespace, d pooled) bool {
	defer phase.Start(ctx, phase.Tables)()
	residue, err := d.datapath.Residue()
	if err == nil && len(residue) > 0 {
		err = fmt.Errorf("%w: %s", ErrStained, strings.Join(residue, "; "))
	}
	if err == nil {
		return true
	}
	p.throwAway(s, ns, d, err)
	return false
}

func (p *Pool) throwAway(s *stock, ns *namespace, d pooled, why error) {
	p.failed(why)
	p.failed(ns.run(d.remove))
	s.room <- struct{}{}
}

// retire removes a world in the background. Its datapaths, which may be fewer
// than its nodes, come first: another world may be waiting for them.
func (p *Pool) retire(w *World, lent map[*node]*datapath.Datapath) {
	p.retiring.Go(func() {
		for n, d := range lent {
			s, one := p.stock(n == w.nodes[0], w.options.Datapath.Without), pooled{d, n.lent}
			if err := n.ns.run(d.Reset); err != nil {
				p.throwAway(s, n.ns, one, fmt.Errorf("empty a used datapath: %w", err))
			} else {
				s.ready <- one
			}
		}
		p.failed(w.dismantle())
	})
}

func (p *Pool) failed(err error) {
	if err == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.errs = append(p.errs, err)
}

// Opened is how many datapaths were opened so far.
func (p *Pool) Opened() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opened
}

// Close waits until closed worlds are gone, and closes the datapaths. It is
// called once, after all worlds were closed. It tells what failed in the background since
// NewPool, and of each datapath that was thrown away: ErrStained.
func (p *Pool) Close() error {
	close(p.over)
	p.retiring.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, all := range p.stocks {
		for _, s := range []*stock{all.first, all.more} {
			for len(s.ready) > 0 {
				d := <-s.ready
				p.errs = append(p.errs, d.remove()) // It is attached nowhere: any namespace does.
			}
		}
	}
	if err := errors.Join(p.errs...); err != nil {
		return fmt.Errorf("close worlds, of %d datapaths opened: %w", p.opened, err)
	}
	return nil
}
