// SPDX-License-Identifier: Apache-2.0

package pcap

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// Expression is a filter as tcpdump takes it ("tcp port 80"). tcpdump itself
// compiles it, for each link type where a packet needs it: the language has
// hundreds of words, of which a second reading would get some wrong.
type Expression struct {
	text     string
	programs map[LinkType]program
}

// Errors of expressions.
var (
	// ErrNoCompiler is that there is no tcpdump.
	ErrNoCompiler = errors.New("tcpdump is not installed, which reads the expression")
	// ErrExpression is an expression that tcpdump does not take.
	ErrExpression = errors.New("no filter expression")
)

// Compile reads an expression, for Ethernet first. ErrNoCompiler, ErrExpression.
func Compile(ctx context.Context, text string) (*Expression, error) {
	e := &Expression{text: text, programs: map[LinkType]program{}}
	_, err := e.program(ctx, LinkEthernet)
	if err != nil {
		return nil, fmt.Errorf("read filter %q: %w", text, err)
	}
	return e, nil
}

// Match is whether a packet of so many bytes on the wire is one that the
// expression means. What the capture has cut off is not there, as to tcpdump.
func (e *Expression) Match(ctx context.Context, link LinkType, data []byte, length int) (bool, error) {
	p, ok := e.programs[link]
	if !ok {
		var err error
		if p, err = e.program(ctx, link); err != nil {
			return false, fmt.Errorf("read filter %q for link type %s: %w", e.text, link, err)
		}
	}
	return p.run(data, length) != 0, nil
}

// program compiles for a link type, which tcpdump takes from a capture without
// packets.
func (e *Expression) program(ctx context.Context, link LinkType) (program, error) {
	path, err := exec.LookPath("tcpdump")
	if err != nil {
		return nil, ErrNoCompiler
	}
	cmd := exec.CommandContext(ctx, path, "-ddd", "-r", "-", "--", e.text)
	cmd.Stdin = bytes.NewReader(emptyCapture(link))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w: %s", ErrExpression, complaint(errs.String(), err))
	}
	p, err := readProgram(out.String())
	if err != nil {
		return nil, err
	}
	e.programs[link] = p
	return p, nil
}

// emptyCapture is the header of a pcap file.
func emptyCapture(link LinkType) []byte {
	b := binary.LittleEndian.AppendUint32(nil, magicMicroseconds)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, MaxPacket)
	return binary.LittleEndian.AppendUint32(b, uint32(link))
}

// complaint is what tcpdump says is wrong: its last line, without its name.
func complaint(text string, err error) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	last := strings.TrimPrefix(lines[len(lines)-1], "tcpdump: ")
	if last == "" {
		return err.Error()
	}
	return last
}

// instruction is one of classic BPF (linux/filter.h).
type instruction struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

// program ends at a return, whatever it is given.
type program []instruction

// maxProgram is how many instructions a program may have (BPF_MAXINSNS).
const maxProgram = 4096

// readProgram reads what tcpdump -ddd prints: a count, and four numbers an
// instruction.
func readProgram(text string) (program, error) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	count, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || count != len(lines)-1 || count > maxProgram {
		return nil, fmt.Errorf("read program: tcpdump printed %d lines, and %q before them", len(lines)-1, lines[0])
	}
	p := make(program, count)
	for i, line := range lines[1:] {
		in := &p[i]
		if n, err := fmt.Sscan(line, &in.code, &in.jt, &in.jf, &in.k); n != 4 {
			return nil, fmt.Errorf("read program: instruction %d, %q: %w", i, line, err)
		}
	}
	return p, p.check()
}

// Classes, sizes, modes and operations of classic BPF.
const (
	classLD, classLDX, classST, classSTX, classALU, classJMP, classRET, classMISC = 0, 1, 2, 3, 4, 5, 6, 7

	sizeW, sizeH, sizeB = 0x00, 0x08, 0x10

	modeIMM, modeABS, modeIND, modeMEM, modeLEN, modeMSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xa0

	sourceX = 0x08
	retA    = 0x10
	toA     = 0x80 // of classMISC

	opADD, opSUB, opMUL, opDIV, opOR, opAND, opLSH, opRSH, opNEG, opMOD, opXOR = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0

	jumpAlways, jumpEQ, jumpGT, jumpGE, jumpSET = 0x00, 0x10, 0x20, 0x30, 0x40

	memoryWords = 16
)

// check makes sure that a program ends and touches only its own memory.
func (p program) check() error {
	if len(p) == 0 || p[len(p)-1].code&7 != classRET {
		return errors.New("read program: it does not end with a return")
	}
	for i, in := range p {
		far := uint64(0)
		switch in.code & 7 {
		case classJMP:
			if far = uint64(max(in.jt, in.jf)); in.code&0xf0 == jumpAlways {
				far = uint64(in.k)
			}
		case classST, classSTX:
			if in.k >= memoryWords {
				return fmt.Errorf("read program: instruction %d writes word %d of %d", i, in.k, memoryWords)
			}
		case classLD, classLDX:
			if in.code&0xe0 == modeMEM && in.k >= memoryWords {
				return fmt.Errorf("read program: instruction %d reads word %d of %d", i, in.k, memoryWords)
			}
		}
		if uint64(i)+1+far >= uint64(len(p)) && in.code&7 != classRET {
			return fmt.Errorf("read program: %w: instruction %d jumps back or beyond the end, as those of protochain do", ErrExpression, i)
		}
	}
	return nil
}

// run gives how many bytes of a packet the program takes; 0 is no match. A read
// beyond the packet ends it with 0, as does a division by 0.
func (p program) run(data []byte, length int) uint32 {
	var a, x uint32
	var memory [memoryWords]uint32
	for at := 0; at < len(p); at++ {
		in := &p[at]
		ok := true
		switch in.code & 7 {
		case classLD:
			a, ok = in.load(data, length, x, &memory)
		case classLDX:
			x, ok = in.loadX(data, length, &memory)
		case classST:
			memory[in.k] = a
		case classSTX:
			memory[in.k] = x
		case classALU:
			a, ok = in.compute(a, x)
		case classJMP:
			at += in.jump(a, x)
		case classRET:
			if in.code&retA != 0 {
				return a
			}
			return in.k
		case classMISC:
			if in.code&toA != 0 {
				a = x
			} else {
				x = a
			}
		}
		if !ok {
			return 0
		}
	}
	return 0
}

func (in *instruction) load(data []byte, length int, x uint32, memory *[memoryWords]uint32) (uint32, bool) {
	at := uint64(in.k)
	switch in.code & 0xe0 {
	case modeIMM:
		return in.k, true
	case modeMEM:
		return memory[in.k], true
	case modeLEN:
		return uint32(length), true
	case modeIND:
		at += uint64(x)
	case modeABS:
	default:
		return 0, false
	}
	if at >= uint64(len(data)) {
		return 0, false
	}
	b, size := data[at:], in.code&0x18
	switch {
	case size == sizeW && len(b) >= 4:
		return binary.BigEndian.Uint32(b), true
	case size == sizeH && len(b) >= 2:
		return uint32(binary.BigEndian.Uint16(b)), true
	case size == sizeB:
		return uint32(b[0]), true
	}
	return 0, false
}

func (in *instruction) loadX(data []byte, length int, memory *[memoryWords]uint32) (uint32, bool) {
	switch in.code & 0xe0 {
	case modeIMM:
		return in.k, true
	case modeMEM:
		return memory[in.k], true
	case modeLEN:
		return uint32(length), true
	case modeMSH: // the length of an IPv4 header
		if uint64(in.k) < uint64(len(data)) {
			return uint32(data[in.k]&0x0f) * 4, true
		}
	}
	return 0, false
}

func (in *instruction) compute(a, x uint32) (uint32, bool) {
	v := in.k
	if in.code&sourceX != 0 {
		v = x
	}
	switch in.code & 0xf0 {
	case opADD:
		return a + v, true
	case opSUB:
		return a - v, true
	case opMUL:
		return a * v, true
	case opDIV:
		if v == 0 {
			return 0, false
		}
		return a / v, true
	case opMOD:
		if v == 0 {
			return 0, false
		}
		return a % v, true
	case opOR:
		return a | v, true
	case opAND:
		return a & v, true
	case opXOR:
		return a ^ v, true
	case opLSH:
		return a << v, true
	case opRSH:
		return a >> v, true
	case opNEG:
		return -a, true
	}
	return 0, false
}

// jump is how many instructions are left out.
func (in *instruction) jump(a, x uint32) int {
	v := in.k
	if in.code&sourceX != 0 {
		v = x
	}
	var holds bool
	switch in.code & 0xf0 {
	case jumpAlways:
		return int(in.k)
	case jumpEQ:
		holds = a == v
	case jumpGT:
		holds = a > v
	case jumpGE:
		holds = a >= v
	case jumpSET:
		holds = a&v != 0
	}
	if holds {
		return int(in.jt)
	}
	return int(in.jf)
}
