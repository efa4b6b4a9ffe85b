// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/model"
)

// A bpffs holds no files, so the labels lie in a table: JSON, cut into pieces. The
// first value is all labels, and each further one is what a change has added. Where
// the table is full, a new one is put in its place by one rename.
const (
	labelsPin   = "labels"
	labelsName  = "weir_labels"
	labelsPiece = 4096
	labelsSpare = 32 // pieces for changes
)

// pinnedLabels are the labels as they lie beside the pins.
type pinnedLabels struct {
	m         *ebpf.Map // nil: this loader has written none
	text      []byte
	node      string               // the name in it
	endpoints map[uint32]model.Key // those in it
	origins   int                  // how many are in it
}

// moreLabels are what a change adds to labels.
type moreLabels struct {
	Endpoints map[uint32]model.Key   `json:"endpoints,omitempty"`
	Services  map[uint32]ServiceName `json:"services,omitempty"`
	Origins   []model.Origin         `json:"origins,omitempty"` // behind those that there are
}

// writeLabels writes the names of the state that is to come, beside those of the state
// before. Names that are in use no more may stay.
func (d *Datapath) writeLabels(want *desired) error {
	if d.opts.PinPath == "" {
		return nil
	}
	now, p := d.shown(), &d.pinnedLabels
	if want.changes && p.m != nil && p.node == want.names.Node {
		more := p.more(want, now.Origins)
		if len(more.Endpoints)+len(more.Services)+len(more.Origins) == 0 {
			return nil
		}
		if added, err := p.add(&more, d.opts.Step); added || err != nil {
			return err
		}
	}
	all := labels{stateNames: now.with(want.names), Origins: now.Origins}
	return p.write(filepath.Join(d.opts.PinPath, labelsPin), &all, d.opts.Step)
}

// more is what a change adds.
func (p *pinnedLabels) more(want *desired, origins []model.Origin) moreLabels {
	more := moreLabels{Services: want.renamed, Origins: origins[p.origins:]}
	if want.sameOwn {
		return more
	}
	for ifindex, name := range want.names.Endpoints {
		if was, ok := p.endpoints[ifindex]; ok && was == name {
			continue
		}
		if more.Endpoints == nil {
			more.Endpoints = map[uint32]model.Key{}
		}
		more.Endpoints[ifindex] = name
	}
	return more
}

// add writes behind the others, if there is room.
func (p *pinnedLabels) add(more *moreLabels, step func(string)) (bool, error) {
	text, err := json.Marshal(more)
	if err != nil {
		return false, fmt.Errorf("encode labels: %w", err)
	}
	from := len(p.text)
	if from+len(text) > int(p.m.MaxEntries())*labelsPiece {
		return false, nil
	}
	step("write labels")
	p.text = append(p.text, text...)
	if err := p.put(p.m, from/labelsPiece); err != nil {
		return false, errors.Join(err, p.close()) // all are written next time
	}
	maps.Copy(p.endpoints, more.Endpoints)
	p.origins += len(more.Origins)
	return true, nil
}

// put writes the pieces of the text from one on.
func (p *pinnedLabels) put(m *ebpf.Map, from int) error {
	for n := from; n*labelsPiece < len(p.text); n++ {
		piece := make([]byte, labelsPiece)
		copy(piece, p.text[n*labelsPiece:])
		if err := m.Put(uint32(n), piece); err != nil {
			return fmt.Errorf("write table of labels: %w", err)
		}
	}
	return nil
}

// write puts all labels in the place of those that were there.
func (p *pinnedLabels) write(path string, all *labels, step func(string)) error {
	text, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("encode labels: %w", err)
	}
	if p.m != nil && bytes.Equal(text, p.text) {
		return nil
	}
	step("write labels")
	if err := p.close(); err != nil {
		return err
	}
	p.text = text
	m, err := p.pin(path)
	if err != nil {
		return err
	}
	p.m, p.node, p.endpoints, p.origins = m, all.Node, maps.Clone(all.Endpoints), len(all.Origins)
	return nil
}

// pin makes a table of the text, and pins it.
func (p *pinnedLabels) pin(path string) (*ebpf.Map, error) {
	pieces := labelsSpare + (len(p.text)+labelsPiece-1)/labelsPiece
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: labelsName, Type: ebpf.Array, KeySize: 4, ValueSize: labelsPiece, MaxEntries: uint32(pieces)})
	if err != nil {
		return nil, fmt.Errorf("make table of labels: %w", err)
	}
	if err := p.put(m, 0); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	fresh := path + "-new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("remove what a loader left: %w", err), m.Close())
	}
	if err := m.Pin(fresh); err != nil {
		return nil, errors.Join(fmt.Errorf("pin table of labels: %w", err), m.Close())
	}
	if err := os.Rename(fresh, path); err != nil {
		return nil, errors.Join(fmt.Errorf("put labels in the place of the old ones: %w", err), m.Close())
	}
	return m, nil
}

// mend pins the labels again where the pin is gone.
func (p *pinnedLabels) mend(path string) error {
	if _, err := inode(path); p.m == nil || !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return pinAgain(p.m, path)
}

// close lets go of the table. The pin stays.
func (p *pinnedLabels) close() error {
	m := p.m
	if p.m = nil; m == nil {
		return nil
	}
	return m.Close()
}

// readLabels takes over what an earlier loader has named.
func (d *Datapath) readLabels() error {
	d.labels = newLabels()
	if d.opts.PinPath == "" {
		return nil
	}
	l, err := loadLabels(filepath.Join(d.opts.PinPath, labelsPin))
	if err == nil {
		d.labels = l
	}
	return err
}

// loadLabels reads labels. Where there are none, or none that can be read, it
// gives empty ones: nothing but names depends on them.
func loadLabels(path string) (labels, error) {
	l := newLabels()
	m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, fmt.Errorf("open pin %s: %w: %w: move it away", path, ErrForeignPin, err)
	}
	defer m.Close()
	if m.Type() != ebpf.Array || m.ValueSize() != labelsPiece {
		return l, fmt.Errorf("pin %s is a %s: %w: move it away", path, m.Type(), ErrForeignPin)
	}
	var text []byte
	piece := make([]byte, labelsPiece)
	for i := range m.MaxEntries() {
		if err := m.Lookup(i, &piece); err != nil {
			return l, fmt.Errorf("read labels: %w", err)
		}
		text = append(text, piece...)
	}
	return parseLabels(bytes.TrimRight(text, "\x00")), nil
}

// parseLabels gives empty labels where there are none in a text. Names that it has not
// got are numbers. What comes behind a value that is not whole is left out.
func parseLabels(text []byte) labels {
	read := newLabels()
	values := json.NewDecoder(bytes.NewReader(text))
	if values.Decode(&read) != nil || len(read.Origins) == 0 {
		return newLabels()
	}
	none := newStateNames(read.Node)
	read.stateNames = none.with(read.stateNames) // tables that are null
	for {
		var more moreLabels
		if values.Decode(&more) != nil {
			break
		}
		maps.Copy(read.Endpoints, more.Endpoints)
		maps.Copy(read.Services, more.Services)
		read.Origins = append(read.Origins, more.Origins...)
	}
	read.Origins[0] = model.Origin{}
	for n, o := range read.Origins[1:] {
		read.numbers[o] = uint32(n + 1)
	}
	return read
}
