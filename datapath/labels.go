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

// labels are what numbers in tables and events stand for. They lie beside the
// pins, for loaders and readers that come later, and decide nothing: where they
// are gone, numbers are shown.
type labels struct {
	stateNames
	Origins []model.Origin `json:"origins"` // by number; 0 is no rule
	numbers map[model.Origin]uint32
}

// stateNames are the names of one state.
type stateNames struct {
	Node      string                 `json:"node"`
	Endpoints map[uint32]model.Key   `json:"endpoints"` // by ifindex
	Services  map[uint32]ServiceName `json:"services"`  // by id
	// Lifetimes are those by which flows are collected.
	Lifetimes model.Lifetimes `json:"lifetimes,omitempty"`
}

// ServiceName is what people call a frontend.
type ServiceName struct {
	Name model.PortRef     `json:"name"`
	Kind model.ServiceKind `json:"kind,omitempty"`
}

func newStateNames(node string) stateNames {
	return stateNames{Node: node, Endpoints: map[uint32]model.Key{}, Services: map[uint32]ServiceName{}}
}

func newLabels() labels {
	return labels{
		stateNames: newStateNames(""),
		Origins:    []model.Origin{{}},
		numbers:    map[model.Origin]uint32{},
	}
}

// number gives an origin the number that tables and events have for it.
func (l *labels) number(o model.Origin) uint32 {
	if n, ok := l.numbers[o]; ok {
		return n
	}
	n := uint32(len(l.Origins))
	l.Origins = append(l.Origins, o)
	l.numbers[o] = n
	return n
}

// shown are the names of now, for who only reads.
func (d *Datapath) shown() labels {
	d.mu.Lock()
	defer d.mu.Unlock()
	return labels{stateNames: d.labels.stateNames, Origins: d.labels.Origins}
}

func (l *labels) origin(n uint32) model.Origin {
	if int(n) >= len(l.Origins) {
		return model.Origin{} // its label is lost
	}
	return l.Origins[n]
}

// policy says which rule a number stands for; empty where none was asked.
func (l *labels) policy(n uint32) string {
	switch {
	case n == 0:
		return ""
	case int(n) >= len(l.Origins):
		return fmt.Sprintf("rule %d", n)
	}
	return l.Origins[n].String()
}

// service names a frontend, by its number alone where its name is lost.
func (l *labels) service(id uint32) model.PortRef {
	if id == 0 {
		return model.PortRef{}
	}
	if name, ok := l.Services[id]; ok {
		return name.Name
	}
	return model.PortRef{Name: fmt.Sprintf("service %d", id)}
}

// at names the endpoint at a hook: the node, at its own devices.
func (l *labels) at(hook model.Hook, ifindex uint32) string {
	if hook == model.FromDevice || hook == model.ToDevice || hook == Socket {
		return l.Node
	}
	return l.endpoint(ifindex).String()
}

// endpoint names a pod, by its device's number where its name is lost.
func (l *labels) endpoint(ifindex uint32) model.Key {
	if name, ok := l.Endpoints[ifindex]; ok {
		return name
	}
	return model.Key{Name: fmt.Sprintf("ifindex %d", ifindex)}
}

// with adds the names of a state to those of the one before: both are in use
// while the epoch turns.
func (s *stateNames) with(next stateNames) stateNames {
	both := stateNames{Node: next.Node, Endpoints: maps.Clone(s.Endpoints), Services: maps.Clone(s.Services)}
	maps.Copy(both.Endpoints, next.Endpoints)
	maps.Copy(both.Services, next.Services)
	return both
}

// A bpffs holds no files, so the labels lie in a table: JSON, cut into pieces.
// A changed one is a new table, put in the old one's place by one rename.
const (
	labelsPin   = "labels"
	labelsName  = "weir_labels"
	labelsPiece = 4096
)

// writeLabels writes the names of this state and the next one. Names that are in
// use no more may stay until some come.
func (d *Datapath) writeLabels(want *desired) error {
	next, now := want.names, d.shown()
	if d.opts.PinPath == "" || want.sameServiceNames && d.origins == len(now.Origins) &&
		next.Node == now.Node && maps.Equal(next.Endpoints, now.Endpoints) {
		return nil
	}
	all := labels{stateNames: now.with(next), Origins: now.Origins}
	text, err := json.Marshal(&all)
	if err != nil {
		return fmt.Errorf("encode labels: %w", err)
	}
	if bytes.Equal(text, d.written) {
		d.origins = len(all.Origins)
		return nil
	}
	d.opts.Step("write labels")
	if err := pinLabels(filepath.Join(d.opts.PinPath, labelsPin), text); err != nil {
		return err
	}
	d.written, d.origins = text, len(all.Origins)
	return nil
}

func pinLabels(path string, text []byte) error {
	pieces := max(1, (len(text)+labelsPiece-1)/labelsPiece)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: labelsName, Type: ebpf.Array, KeySize: 4, ValueSize: labelsPiece, MaxEntries: uint32(pieces)})
	if err != nil {
		return fmt.Errorf("make table of labels: %w", err)
	}
	defer m.Close()
	piece := make([]byte, labelsPiece)
	for i := range uint32(pieces) {
		clear(piece)
		copy(piece, text[i*labelsPiece:])
		if err := m.Put(i, piece); err != nil {
			return fmt.Errorf("write table of labels: %w", err)
		}
	}
	fresh := path + "-new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what a loader left: %w", err)
	}
	if err := m.Pin(fresh); err != nil {
		return fmt.Errorf("pin table of labels: %w", err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("put labels in the place of the old ones: %w", err)
	}
	return nil
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

// parseLabels gives empty labels where there are none in a text. Names that it
// has not got are numbers.
func parseLabels(text []byte) labels {
	read := newLabels()
	if json.Unmarshal(text, &read) != nil || len(read.Origins) == 0 {
		return newLabels()
	}
	none := newStateNames(read.Node)
	read.stateNames = none.with(read.stateNames) // tables that are null
	read.Origins[0] = model.Origin{}
	for n, o := range read.Origins[1:] {
		read.numbers[o] = uint32(n + 1)
	}
	return read
}
