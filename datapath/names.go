// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/cilium/ebpf/btf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// names are what the C source calls its numbers, read from the objects' BTF,
// so that a number added there has its name here.
type names struct {
	reasons map[uint8]model.Reason
	numbers map[model.Reason]uint8 // of reasons
	files   map[uint8]string
	tables  []string // by bit pair
}

// sourceLines reads the C that the embedded objects are built from.
var sourceLines = sync.OnceValue(func() map[string][]string {
	lines := map[string][]string{}
	// The files are in the binary: all can be read.
	_ = fs.WalkDir(bpf.Sources(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			text, _ := fs.ReadFile(bpf.Sources(), path)
			lines["bpf/"+path] = strings.Split(string(text), "\n")
		}
		return err
	})
	return lines
})

// statement is the text of the embedded source up to a line, from where the
// statement begins: a macro's line is that of its end. Empty for no line of it.
func statement(file string, line int) string {
	lines := sourceLines()[file]
	if line < 1 || line > len(lines) {
		return ""
	}
	first := line - 1
	for first > 0 && strings.HasSuffix(strings.TrimSpace(lines[first-1]), ":") {
		first-- // of a choice between two values
	}
	return strings.Join(lines[first:line], " ")
}

// counter is the index of a counter.
func (n *names) counter(reason model.Reason, hook model.Hook) int {
	return int(n.numbers[reason])*int(bpf.ContainerHookHOOK_MAX) + int(hookNumbers[hook])
}

func readNames(types *btf.Spec) (*names, error) {
	n := &names{reasons: map[uint8]model.Reason{}, files: map[uint8]string{}}
	err := eachValue(types, "reason", "REASON_", func(value uint64, name string) {
		n.reasons[uint8(value)] = model.Reason(name)
	})
	if err != nil {
		return nil, err
	}
	n.reasons[0] = ""
	delete(n.reasons, uint8(bpf.ContainerReasonREASON_MAX))
	n.numbers = make(map[model.Reason]uint8, len(n.reasons))
	for number, reason := range n.reasons {
		n.numbers[reason] = number
	}
	err = eachValue(types, "source_file", "FILE_", func(value uint64, name string) {
		n.files[uint8(value)] = fileName(name)
	})
	if err != nil {
		return nil, err
	}
	err = eachValue(types, "table", "TABLE_", func(value uint64, name string) {
		for len(n.tables) <= int(value) {
			n.tables = append(n.tables, "")
		}
		n.tables[value] = name
	})
	return n, err
}

func eachValue(types *btf.Spec, enum, prefix string, do func(uint64, string)) error {
	var t *btf.Enum
	if err := types.TypeByName(enum, &t); err != nil {
		return fmt.Errorf("read names of %s from the objects' BTF: %w", enum, err)
	}
	for _, v := range t.Values {
		name := strings.ToLower(strings.TrimPrefix(v.Name, prefix))
		do(v.Value, strings.ReplaceAll(name, "_", "-"))
	}
	return nil
}

// fileName undoes what enum source_file does to a file's name.
func fileName(name string) string {
	name = strings.ReplaceAll(name, "-", "_")
	if base, ok := strings.CutSuffix(name, "_bpf_c"); ok {
		return "bpf/" + base + ".bpf.c"
	}
	if base, ok := strings.CutSuffix(name, "_h"); ok {
		return "bpf/lib/" + base + ".h"
	}
	return name
}

var actions = map[uint8]model.Action{
	uint8(bpf.ContainerVerdictVERDICT_FORWARD): model.Forward,
	uint8(bpf.ContainerVerdictVERDICT_DROP):    model.Drop,
	uint8(bpf.ContainerVerdictVERDICT_REPLY):   model.Reply,
	uint8(bpf.ContainerVerdictVERDICT_AUDIT):   model.Audit,
}

var outs = map[uint8]model.Out{
	uint8(bpf.ContainerOutOUT_LOCAL):  model.OutLocal,
	uint8(bpf.ContainerOutOUT_HOST):   model.OutHost,
	uint8(bpf.ContainerOutOUT_DEVICE): model.OutDevice,
	uint8(bpf.ContainerOutOUT_TUNNEL): "tunnel",
	uint8(bpf.ContainerOutOUT_SELF):   model.OutSelf,
}

var hooks = map[uint8]model.Hook{
	uint8(bpf.ContainerHookHOOK_FROM_CONTAINER): model.FromContainer,
	uint8(bpf.ContainerHookHOOK_TO_CONTAINER):   model.ToContainer,
	uint8(bpf.ContainerHookHOOK_FROM_DEVICE):    model.FromDevice,
	uint8(bpf.ContainerHookHOOK_TO_DEVICE):      model.ToDevice,
	uint8(bpf.ContainerHookHOOK_SOCKET):         Socket,
}

// hookNumbers are the numbers of hooks.
var hookNumbers = func() map[model.Hook]uint8 {
	numbers := map[model.Hook]uint8{}
	for number, hook := range hooks {
		numbers[hook] = number
	}
	return numbers
}()

// hookPrograms are the programs of the hooks.
var hookPrograms = map[model.Hook]string{
	model.FromContainer: bpf.ContainerProgFromContainer,
	model.ToContainer:   bpf.ContainerProgToContainer,
	model.FromDevice:    bpf.HostProgFromDevice,
	model.ToDevice:      bpf.HostProgToDevice,
}

var lookups = map[uint8]FlowLookup{
	uint8(bpf.ContainerLookupLOOKUP_NEW):      FlowNew,
	uint8(bpf.ContainerLookupLOOKUP_KNOWN):    FlowKnown,
	uint8(bpf.ContainerLookupLOOKUP_REJUDGED): FlowRejudged,
}

// place resolves a packed file and line.
func (n *names) place(where uint32) (file string, line int) {
	return n.files[uint8(where>>16)], int(where & 0xffff)
}

// reads resolves the bit pairs of the tables that were read.
func (n *names) reads(bits uint64) []TableRead {
	var reads []TableRead
	for i, name := range n.tables {
		if pair := bits >> (2 * i) & 3; pair != 0 {
			reads = append(reads, TableRead{Table: name, Hit: pair == 3})
		}
	}
	return reads
}
