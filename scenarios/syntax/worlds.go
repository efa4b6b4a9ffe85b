// SPDX-License-Identifier: Apache-2.0

package syntax

// meaning is what a verb means in each world; empty: the world has it not.
type meaning struct{ prog, netns, cluster string }

// What verbs of a kind have in common.
var (
	exchanges = meaning{
		"both ends are crafted, and their frames are carried from hook to hook at once. Nothing is sent again: a frame that is lost is a timeout",
		"real sockets of the kernel in network namespaces. Kernels retransmit, so that a frame that is lost shows as a delay, and a timeout is waited for",
		"real sockets in pods, which the probes there are told to use. Kernels retransmit. It is tried again for a while, since the plugin may not have followed yet",
	}
	sent = meaning{
		"the frame goes into the hook of the host's interface as it is written, and is carried to where the programs lead it. It is sent once",
		"the frame leaves by a packet socket of the host's interface, once; kernels answer what they meet, and retransmit what their own sockets sent", "",
	}
	seen = meaning{
		"frames are there as soon as they were sent, and are compared then",
		"interfaces are captured; the frame is waited for. What kernels retransmit can be met too", "",
	}
	objectsChange = meaning{
		"the objects are compiled, and each node's tables are changed before the next step",
		"the objects are compiled, and each node's tables are changed before the next step",
		"the API server is told, with the cluster's own names and addresses in the objects; the plugin follows when it does, so that the next step is tried for a while",
	}
	looked = meaning{
		"it is read from the node's tables, at once",
		"it is read from the node's tables, again for a while, since packets take time", "",
	}
	networkChanges = meaning{"the network in miniature is changed", "interfaces, addresses and routes of the namespaces are changed", ""}
)

// meanings are those of all verbs.
var meanings = map[string]meaning{
	"listen": exchanges, "connect": exchanges, "say": exchanges, "close": exchanges, "ping": exchanges,
	"send": sent, "expect": seen,
	"apply": objectsChange, "update": objectsChange, "delete": objectsChange, "label": objectsChange, "terminate": objectsChange,
	"flow": looked, "no-flow": looked, "counter": looked, "table": looked, "uses": looked,
	"give": networkChanges, "take": networkChanges, "lead": networkChanges,
	"renew":   {prog: networkChanges.prog},
	"verdict": {prog: "what the programs noted of the frame that was sent last"},
	"dropped": {looked.prog, looked.netns, "nothing: what is dropped there its plugin alone could tell, and the exchange shows it"},
	"advance": {"the clock that programs read is moved", "the clock that programs read is moved; the kernels' own are not", ""},
	"collect": {"the collector runs once", "the collector runs once", ""},
}

// MeaningHelp is what a verb means in a world.
type MeaningHelp struct {
	World World
	Text  string // empty: the world does not have it
}

// Explain tells of one word: a verb, or a header, which means the same in all worlds.
func Explain(name string) (help VerbHelp, worlds []MeaningHelp, known bool) {
	if header, is := headers[name]; is {
		return VerbHelp{header.usage, header.help}, nil, true
	}
	verb, is := verbs[name]
	if !is {
		return VerbHelp{}, nil, false
	}
	m := meanings[name]
	return VerbHelp{verb.usage, verb.help}, []MeaningHelp{{Prog, m.prog}, {Netns, m.netns}, {Cluster, m.cluster}}, true
}

// Names are all words that Explain knows.
func Names() []string { return append(sortedKeys(headers), sortedKeys(verbs)...) }

// TopologyHelp is a network that is ready made: its pods by node. Beside them a host
// is outside.
type TopologyHelp struct {
	Name    string
	Nodes   [][]string
	Outside string
}

// Topologies lists them by name.
func Topologies() []TopologyHelp {
	var all []TopologyHelp
	for _, name := range sortedKeys(topologies) {
		t := TopologyHelp{Name: name, Outside: topologyOutside}
		for _, pods := range topologies[name] {
			if len(pods) > 0 {
				t.Nodes = append(t.Nodes, pods)
			}
		}
		all = append(all, t)
	}
	return all
}
