// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	strictjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/model"
)

// ParseError is what is wrong with one object of a file.
type ParseError struct {
	File     string
	Document int       // from 1; JSON values that follow each other count alike
	Line     int       // from 1: of the mistake where it is known, else of the document
	Object   model.Ref // as far as known
	Field    string    // path, as in spec.ports[0].port; empty: it is about all of it
	Problem  string    // with the remedy
}

func (e *ParseError) Error() string {
	place := fmt.Sprintf("%s:%d: document %d", e.File, e.Line, e.Document)
	if !e.Object.IsZero() {
		place += ": " + e.Object.String()
	}
	if e.Field != "" {
		place += ": " + e.Field
	}
	return place + ": " + e.Problem
}

// Parse reads objects from YAML documents or JSON values, and lists of
// objects. It is strict: an unknown kind or field, a key or an object that is
// there twice, or a value that the API would refuse is an error. All errors of
// the file are joined, each a *ParseError; name is the file's in them.
//
// An object that has a metadata.generateName in place of a name gets the first
// that is free: such as no API server gives, and the same each time.
func Parse(name string, r io.Reader) (*Objects, error) {
	return ParseBeside(name, r, NewObjects())
}

// ParseBeside is Parse of a file that belongs to others: names that it gives
// are none of theirs.
func ParseBeside(name string, r io.Reader, others *Objects) (*Objects, error) {
	return parse(name, r, others, nil)
}

// parse reads a file. What is found among other things is noted; nil: there are none.
func parse(name string, r io.Reader, others *Objects, among *Found) (*Objects, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read objects from %s: %w", name, err)
	}
	p := parser{file: name, objects: NewObjects(), among: among, seen: map[model.Ref]int{}, taken: map[model.Ref]bool{}}
	for _, ref := range others.Refs() {
		p.taken[ref] = true
	}
	for i, doc := range splitDocuments(data) {
		doc.number = i + 1
		p.document(doc)
	}
	for _, u := range p.unnamed { // when all names that are given are known
		p.name(u.obj)
		p.keep(u.doc, u.kind, u.obj)
	}
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	return p.objects, nil
}

type parser struct {
	file    string
	objects *Objects
	among   *Found             // nil: all has to be ours
	seen    map[model.Ref]int  // the number of its document
	taken   map[model.Ref]bool // by other files
	unnamed []unnamed
	errs    []error
}

type document struct {
	number int
	line   int // where text begins in the file, from 1
	text   []byte
}

// splitDocuments cuts a file at its "---" lines, and a document of JSON values
// that follow each other at each value. Documents of comments alone are left
// out and not counted.
func splitDocuments(data []byte) []document {
	var docs []document
	add := func(doc document) {
		if !isBlank(doc.text) {
			docs = append(docs, splitJSON(doc)...)
		}
	}
	current := document{line: 1}
	start, line := 0, 0
	for at := 0; at < len(data); {
		line++
		end := len(data)
		if nl := bytes.IndexByte(data[at:], '\n'); nl >= 0 {
			end = at + nl + 1
		}
		if isSeparator(data[at:end]) {
			current.text = data[start:at]
			add(current)
			start, current = end, document{line: line + 1}
		}
		at = end
	}
	current.text = data[start:]
	add(current)
	return docs
}

func isSeparator(line []byte) bool {
	rest, found := bytes.CutPrefix(line, []byte("---"))
	if !found {
		return false
	}
	rest = bytes.TrimSpace(rest)
	return len(rest) == 0 || rest[0] == '#'
}

func isBlank(text []byte) bool {
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

// splitJSON cuts JSON values that follow each other. What is not JSON to the
// end stays one document, for the YAML parser to judge.
func splitJSON(doc document) []document {
	if trimmed := bytes.TrimSpace(doc.text); trimmed[0] != '{' {
		return []document{doc}
	}
	var docs []document
	decoder := json.NewDecoder(bytes.NewReader(doc.text))
	for {
		var value json.RawMessage
		err := decoder.Decode(&value)
		if errors.Is(err, io.EOF) {
			return docs
		}
		if err != nil {
			return []document{doc}
		}
		begin := int(decoder.InputOffset()) - len(value)
		line := doc.line + bytes.Count(doc.text[:begin], []byte("\n"))
		docs = append(docs, document{line: line, text: value})
	}
}

func (p *parser) fail(doc document, line int, object model.Ref, field, format string, args ...any) {
	if line == 0 {
		line = doc.line
	}
	p.errs = append(p.errs, &ParseError{
		File: p.file, Document: doc.number, Line: line, Object: object, Field: field,
		Problem: fmt.Sprintf(format, args...),
	})
}

func (p *parser) document(doc document) {
	text, err := yaml.YAMLToJSONStrict(doc.text)
	if err != nil {
		line, problem := yamlProblem(err, doc.line)
		if bytes.Contains(doc.text, []byte("{{")) {
			problem += ": it seems to be a template: give what 'helm template' makes of it"
		}
		p.fail(doc, line, model.Ref{}, "", "%s", problem)
		return
	}
	p.object(doc, text)
}

// header is as much of an object as is needed to know what it is.
type header struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items"`
}

// inWords leaves names of Go types out of what is wrong with a document.
func inWords(err error) string {
	wrong, ok := errors.AsType[*json.UnmarshalTypeError](err)
	switch {
	case !ok:
		return err.Error()
	case wrong.Field == "":
		return "it is " + jsonValue(wrong.Value)
	case wrong.Type.Kind() == reflect.String && wrong.Value != "object" && wrong.Value != "array":
		return wrong.Field + " is " + jsonValue(wrong.Value) + ": put it in quotes"
	}
	return wrong.Field + " is " + jsonValue(wrong.Value)
}

func (p *parser) object(doc document, text []byte) {
	var head header
	if err := json.Unmarshal(text, &head); err != nil {
		p.fail(doc, 0, model.Ref{}, "", "is not an object of Kubernetes: it needs apiVersion, kind and metadata (%s)", inWords(err))
		return
	}
	if strings.HasSuffix(head.Kind, "List") {
		for _, item := range head.Items {
			p.object(doc, item)
		}
		return
	}
	if p.passedOver(doc, &head, text) {
		return
	}
	k, field, problem := head.kind()
	if problem != "" {
		p.fail(doc, lineOf(doc, "kind"), head.ref(), field, "%s", problem)
		return
	}
	obj := k.make()
	strict, err := strictjson.UnmarshalStrict(text, obj)
	if err != nil {
		field, problem := jsonProblem(err)
		p.fail(doc, lineOf(doc, field), head.ref(), field, "%s", problem)
		return
	}
	for _, problem := range schemaProblems(k.name, text) {
		p.fail(doc, lineOf(doc, problem.field), head.ref(), problem.field, "%s", problem.text)
	}
	for _, err := range strict {
		if k.name == "NetworkPolicy" && err.Error() == `unknown field "status"` {
			continue // of a server before 1.28, and nothing that is asked for
		}
		field, problem := strictProblem(err)
		p.fail(doc, lineOf(doc, field), head.ref(), field, "%s", problem)
	}
	if obj.GetName() == "" && obj.GetGenerateName() != "" {
		p.unnamed = append(p.unnamed, unnamed{doc, k, obj})
		return
	}
	p.keep(doc, k, obj)
}

// unnamed is an object that asks for a name.
type unnamed struct {
	doc  document
	kind *kind
	obj  metav1.Object
}

// name gives an object a name of its generateName, cut as the API server cuts
// it, and five digits that begin with 0, which the server never gives.
func (p *parser) name(obj metav1.Object) {
	const room = 58
	begin := obj.GetGenerateName()
	begin = begin[:min(room, len(begin))]
	for n := 1; ; n++ {
		obj.SetName(fmt.Sprintf("%s%05d", begin, n))
		ref := RefOf(obj)
		if _, twice := p.seen[ref]; !twice && !p.taken[ref] {
			return
		}
	}
}

func (p *parser) keep(doc document, k *kind, obj metav1.Object) {
	if k.namespaced {
		obj.SetNamespace(NamespaceOr(obj.GetNamespace()))
	} else if obj.GetNamespace() != "" {
		p.fail(doc, lineOf(doc, "namespace"), RefOf(obj), "metadata.namespace", "a %s belongs to no namespace: remove the field", k.name)
	}
	for _, err := range Validate(obj) {
		p.fail(doc, lineOf(doc, err.Field), err.Object, err.Field, "%s", err.Problem)
	}
	ref := RefOf(obj)
	if first, twice := p.seen[ref]; twice {
		p.fail(doc, 0, ref, "", "is there twice, first in document %d: remove one or give it another metadata.name", first)
		return
	}
	p.seen[ref] = doc.number
	if err := p.objects.Upsert(obj); err != nil {
		p.fail(doc, 0, ref, "", "%v", err)
	}
}

func (h *header) ref() model.Ref {
	if h.Metadata.Name == "" || h.Kind == "" {
		return model.Ref{Kind: h.Kind}
	}
	ref := model.Ref{Kind: h.Kind, Name: h.Metadata.Name}
	if k := kindCalled(h.Kind); k == nil || k.namespaced {
		ref.Namespace = NamespaceOr(h.Metadata.Namespace)
	}
	return ref
}

func (h *header) kind() (_ *kind, field, problem string) {
	if h.Kind == "" {
		return nil, "kind", "is missing: use one of " + strings.Join(kindNames(), ", ")
	}
	for _, k := range kinds() {
		if k.name != h.Kind {
			continue
		}
		if h.APIVersion != k.apiVersion && !slices.Contains(alike(k.name), h.APIVersion) {
			return nil, "apiVersion", fmt.Sprintf("%q is not known for kind %s: use %s", h.APIVersion, k.name, k.apiVersion)
		}
		return &k, "", ""
	}
	remedy := "leave the object out"
	if strings.HasSuffix(h.Kind, "AdminNetworkPolicy") {
		remedy = "write it as a ClusterNetworkPolicy, which has taken its place, of tier Admin or Baseline"
	}
	return nil, "kind", fmt.Sprintf("%q is not one of %s: %s", h.Kind, strings.Join(kindNames(), ", "), remedy)
}

var (
	yamlLine = regexp.MustCompile(`line (\d+): ?`)
	quotedIn = regexp.MustCompile(`"([^"]+)"`)
)

// yamlProblem takes the line, which the YAML parser counts in the document,
// out of its error.
func yamlProblem(err error, base int) (line int, problem string) {
	problem = err.Error()
	for _, prefix := range []string{"yaml: ", "unmarshal errors:", "yaml: "} {
		problem = strings.TrimSpace(strings.TrimPrefix(problem, prefix))
	}
	if at := yamlLine.FindStringSubmatch(problem); at != nil {
		n, _ := strconv.Atoi(at[1])
		line = base + n - 1
		problem = strings.Replace(problem, at[0], "", 1)
	}
	return line, "is not valid YAML: " + problem
}

func jsonProblem(err error) (field, problem string) {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		remedy := ""
		if wrong.Type.Kind() == reflect.String && (strings.HasPrefix(wrong.Value, "number") || wrong.Value == "bool") {
			remedy = ": put it in quotes"
		}
		return wrong.Field, fmt.Sprintf("has %s where the API wants %s%s", jsonValue(wrong.Value), apiType(wrong.Type), remedy)
	}
	return "", err.Error()
}

// jsonValue is what encoding/json calls a value, in words.
func jsonValue(value string) string {
	switch word, detail, _ := strings.Cut(value, " "); word {
	case "array":
		return "a list"
	case "bool":
		return "true or false"
	case "object":
		return "an object"
	case "number":
		return strings.TrimSpace("a number " + detail)
	case "string":
		return "a string"
	}
	return value
}

func apiType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct, reflect.Pointer:
		return "an object"
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number"
	}
	return t.String()
}

func strictProblem(err error) (field, problem string) {
	field = quoted(err.Error())
	if strings.HasPrefix(err.Error(), "unknown field") {
		return field, "is not a field of this kind: correct its spelling or remove it"
	}
	return field, err.Error()
}

func quoted(text string) string {
	if found := quotedIn.FindStringSubmatch(text); found != nil {
		return found[1]
	}
	return ""
}

// lineOf finds the line of a field given by its path, where the document names
// its last part once; else 0.
func lineOf(doc document, path string) int {
	field := lastKey(path)
	if field == "" {
		return 0
	}
	found, line := 0, doc.line-1
	for text := range bytes.Lines(doc.text) {
		line++
		switch times := countKey(text, field); {
		case times > 1 || times == 1 && found != 0:
			return 0
		case times == 1:
			found = line
		}
	}
	return found
}

// lastKey is the last part of a path that a document writes as a key: that of
// a map, as in metadata.labels[app.kubernetes.io/name], but no index.
func lastKey(path string) string {
	if before, key, found := strings.Cut(path, "["); found && strings.HasSuffix(path, "]") && strings.HasPrefix(before, "metadata.") {
		return strings.TrimSuffix(key, "]")
	}
	field := path[strings.LastIndexByte(path, '.')+1:]
	field, _, _ = strings.Cut(field, "[")
	return field
}

// countKey counts how often a line has field as a key.
func countKey(line []byte, field string) int {
	times := 0
	for before, rest, found := bytes.Cut(line, []byte(field)); found; before, rest, found = bytes.Cut(rest, []byte(field)) {
		begins := len(before) == 0 || bytes.ContainsAny(before[len(before)-1:], " \t{,\"'")
		if begins && bytes.HasPrefix(bytes.TrimLeft(rest, "\"' "), []byte(":")) {
			times++
		}
	}
	return times
}
