// SPDX-License-Identifier: Apache-2.0

package page

import (
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/weirnet/weir/lab"
)

// drawing is a network as boxes and wires, in units of a pixel. Hosts outside stand
// above, below them what leads to the nodes, and below that the nodes with their
// pods.
type drawing struct {
	Width, Height int
	Title         string // for who does not see it
	Wires         []wire
	Boxes         []box
	Marks         []mark
}

// box is a host, or what is between hosts.
type box struct {
	X, Y, W, H  int
	Class       string
	Name, Under string // lines of text
	Whole       string // where the lines are cut
}

// wire is a line from X, Y down and then right.
type wire struct {
	X, Y, Down, Right int
	Way               bool // the frame took it
}

// mark is a hook that the frame met, with its number.
type mark struct {
	X, Y, N int
	Class   string // the action
	Title   string
}

// Sizes of a drawing.
const (
	letter    = 8 // width of a letter of a name, at most
	hostH     = 40
	barH      = 22
	gap       = 14
	busX      = 18 // of the wire in a node, from its left side
	markStep  = 24
	mostWide  = 44 // letters of a line
	smallBox  = 90
	wireShort = 26
)

// draw lays a network out, with a frame's way in it; walk may be nil. Addresses are
// those of one family.
func draw(t lab.Topology, v6 bool, walk *Walk) *drawing {
	if len(t.Nodes) == 0 {
		return nil
	}
	l := &layout{Topology: t, v6: v6, drawing: &drawing{Title: "the network of the scenario"}, marks: map[string][]mark{}}
	if walk != nil {
		l.walk = *walk
		l.meet(walk.Steps)
	}
	l.draw()
	return l.drawing
}

type layout struct {
	lab.Topology
	*drawing
	v6    bool
	walk  Walk
	marks map[string][]mark // by the place: a pod's name, or a node's
}

// short is what a scenario calls a host.
func short(name string) string { return strings.TrimPrefix(name, "default/") }

// meet numbers the hooks of the frame's way, by their places.
func (l *layout) meet(steps []Step) {
	for i, s := range steps {
		place := short(s.Endpoint)
		m := mark{N: i + 1, Class: s.Action, Title: s.Hook + " of " + s.Endpoint + ": " + strings.TrimSpace(s.Action+" "+s.Reason)}
		if s.But != "" {
			m.Class = "drop"
		}
		l.marks[place] = append(l.marks[place], m)
	}
}

// onWay says whether the frame is from a host, or went to it or its hooks.
func (l *layout) onWay(name string) bool {
	name = short(name)
	return name != "" && (name == short(l.walk.From) || name == short(l.walk.To)) || len(l.marks[name]) > 0
}

func (l *layout) address(h lab.Host) string {
	i := slices.IndexFunc(h.Addresses, func(a netip.Addr) bool { return a.Is6() == l.v6 })
	if i < 0 {
		return ""
	}
	return h.Addresses[i].String()
}

// cut shortens a line, and says whether it did.
func cut(text string) (string, bool) {
	if utf8.RuneCountInString(text) <= mostWide {
		return text, false
	}
	return string([]rune(text)[:mostWide-1]) + "…", true
}

// hostBox is the box of a host, as wide as its lines.
func (l *layout) hostBox(h lab.Host, class string) box {
	b := box{H: hostH, Class: class, Under: l.address(h)}
	var shortened bool
	if b.Name, shortened = cut(short(h.Name)); shortened {
		b.Whole = h.Name
	}
	if h.Second {
		b.Under += " (second uplink)"
	}
	if l.onWay(h.Name) {
		b.Class += " way"
	}
	b.W = max(smallBox, 16+letter*max(utf8.RuneCountInString(b.Name), utf8.RuneCountInString(b.Under)))
	return b
}

// group is the boxes of a node: its own, and those of its pods.
type group struct {
	node lab.Host
	own  box
	pods []box
	// branch is how long the wires to the pods are.
	branch int
	names  []string // of the pods
}

func (l *layout) groupOf(i int) *group {
	n := l.Nodes[i]
	g := &group{node: n, own: l.hostBox(n, "node"), branch: wireShort}
	wide := 0
	for _, p := range l.Pods {
		if l.NodeOf(p) != i {
			continue
		}
		b := l.hostBox(p, "pod")
		g.pods, g.names = append(g.pods, b), append(g.names, short(p.Name))
		g.branch = max(g.branch, wireShort+markStep*len(l.marks[short(p.Name)]))
		wide = max(wide, b.W)
	}
	for j := range g.pods {
		g.pods[j].W = wide
	}
	if len(g.pods) > 0 {
		g.own.W = max(g.own.W, busX+g.branch+wide+gap)
		g.own.H = hostH + 4 + len(g.pods)*(hostH+gap)
	}
	return g
}

// row puts boxes side by side, and says how wide that is.
func row(boxes []box) int {
	x := 0
	for i := range boxes {
		boxes[i].X = x
		x += boxes[i].W + gap
	}
	return max(0, x-gap)
}

func (l *layout) draw() {
	var outside, nodes []box
	var groups []*group
	for _, h := range l.Outside {
		outside = append(outside, l.hostBox(h, "outside"))
	}
	uplink := wireShort
	for i := range l.Nodes {
		g := l.groupOf(i)
		groups, nodes = append(groups, g), append(nodes, g.own)
		uplink = max(uplink, wireShort+markStep*len(l.marks[g.node.Name]))
	}
	wide := max(row(outside), row(nodes))
	l.Width = wide + 2*gap
	y := l.above(outside, wide)
	if y == 0 {
		y, uplink = gap, 0
	}
	shift := gap + (wide-row(nodes))/2
	for i, g := range groups {
		nodes[i].X += shift
		l.node(g, nodes[i], y, uplink)
	}
}

// above draws what is outside of the nodes, and gives where their uplinks begin; 0
// where there is nothing.
func (l *layout) above(outside []box, wide int) int {
	if len(outside) == 0 && !l.Routed() {
		return 0
	}
	y := gap
	if len(outside) > 0 {
		y += hostH + wireShort
	}
	shift := gap + (wide-row(outside))/2
	for i, b := range outside {
		b.X, b.Y = b.X+shift, gap
		l.Boxes = append(l.Boxes, b)
		l.Wires = append(l.Wires, wire{X: b.X + b.W/2, Y: gap + hostH, Down: wireShort, Way: l.onWay(l.Outside[i].Name)})
	}
	bar := box{X: gap, Y: y, W: wide, H: barH, Class: "bar", Name: "the router"}
	if !l.Routed() {
		bar.Name, bar.Class = "one link", "bar link"
	}
	l.Boxes = append(l.Boxes, bar)
	return y + barH
}

// node draws a node below what its uplink leads to.
func (l *layout) node(g *group, b box, y, uplink int) {
	b.Y = y + uplink
	l.Boxes = append(l.Boxes, b)
	if uplink > 0 {
		l.Wires = append(l.Wires, wire{X: b.X + busX, Y: y, Down: uplink, Way: l.leaves(g)})
		l.place(g.node.Name, b.X+busX, y+wireShort/2+markStep/4, 0, markStep)
		if l.HasSecond() {
			l.Wires = append(l.Wires, wire{X: b.X + busX + 3*markStep, Y: y, Down: uplink})
		}
	} else {
		l.place(g.node.Name, b.X+b.W-markStep, b.Y+hostH/2, -markStep, 0)
	}
	for i, p := range g.pods {
		p.X, p.Y = b.X+busX+g.branch, b.Y+hostH+4+i*(hostH+gap)
		middle := p.Y + hostH/2
		l.Boxes = append(l.Boxes, p)
		l.Wires = append(l.Wires, wire{X: b.X + busX, Y: b.Y + hostH - 2, Down: middle - b.Y - hostH + 2, Right: g.branch, Way: l.onWay(g.names[i])})
		l.place(g.names[i], b.X+busX+wireShort/2+markStep/4, middle, markStep, 0)
	}
	l.Height = max(l.Height, b.Y+b.H+gap)
}

// leaves says whether the frame took the uplink of a node, as far as its hooks tell.
func (l *layout) leaves(g *group) bool {
	if len(l.marks[g.node.Name]) > 0 {
		return true
	}
	for _, s := range l.walk.Steps {
		if (s.Out == "device" || s.Out == "tunnel") && slices.Contains(g.names, short(s.Endpoint)) {
			return true
		}
	}
	return false
}

// place puts the marks of a host one beside the other.
func (l *layout) place(name string, x, y, right, down int) {
	for i, m := range l.marks[name] {
		m.X, m.Y = x+i*right, y+i*down
		l.Marks = append(l.Marks, m)
	}
}
