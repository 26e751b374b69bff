// go_verifier checks a C2SP tlog-tiles log with nothing but golang.org/x/mod, none of this product's code.
//
//	go_verifier -vkey VKEY [-key KEY] [-proof FILE] DIRECTORY|URL
//
// It checks the checkpoint's signature, every entry, every tile, inclusion proofs of the first and last entries and at
// every power of two, and consistency proofs from as many earlier sizes. With -proof it checks a tlog-proof file too.
// Exit status 0: everything is as signed. 1: something is not, or is missing.
package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

func main() {
	vkey := flag.String("vkey", "", "the log's verifier key")
	key := flag.String("key", "", "an API key, where entries are not public")
	proof := flag.String("proof", "", "a tlog-proof file to check too")
	flag.Parse()
	if flag.NArg() != 1 || *vkey == "" {
		flag.Usage()
		os.Exit(2)
	}
	size, err := verify(flag.Arg(0), *vkey, *key, *proof)
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL", err)
		os.Exit(1)
	}
	fmt.Println("OK", size)
}

func verify(source, vkey, key, proofFile string) (int64, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return 0, err
	}
	log := reader{source, key, &http.Client{Timeout: 20 * time.Second}}
	signed, err := log.read("checkpoint")
	if err != nil {
		return 0, err
	}
	tree, err := openCheckpoint(signed, verifier)
	if err != nil {
		return 0, err
	}
	entries, err := log.entries(tree.N)
	if err != nil {
		return 0, err
	}
	if err := checkTiles(log, tree, entries); err != nil {
		return 0, err
	}
	if err := checkProofs(log, tree, entries); err != nil {
		return 0, err
	}
	if proofFile != "" {
		if err := checkProofFile(proofFile, verifier, entries); err != nil {
			return 0, err
		}
	}
	return tree.N, nil
}

// openCheckpoint checks the signature and reads the three lines: origin, size, root.
func openCheckpoint(signed []byte, verifier note.Verifier) (tlog.Tree, error) {
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return tlog.Tree{}, errors.New("the checkpoint is not of the log that the key is named for")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: root}, err
}

// checkTiles computes the tree from the entries alone, and compares the root and every tile with it.
func checkTiles(log reader, tree tlog.Tree, entries [][]byte) error {
	var stored []tlog.Hash
	computed := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		found := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			found[i] = stored[index]
		}
		return found, nil
	})
	for i, entry := range entries {
		hashes, err := tlog.StoredHashes(int64(i), entry, computed)
		if err != nil {
			return err
		}
		stored = append(stored, hashes...)
	}
	root, err := tlog.TreeHash(tree.N, computed)
	if err != nil {
		return err
	}
	if root != tree.Hash {
		return errors.New("the entries do not lead to the signed root")
	}
	for _, tile := range tlog.NewTiles(height, 0, tree.N) {
		expected, err := tlog.ReadTileData(tile, computed)
		if err != nil {
			return err
		}
		published, err := log.read(path(tile))
		if err != nil {
			return err
		}
		if !bytes.Equal(published, expected) {
			return fmt.Errorf("%s is not what the entries lead to", path(tile))
		}
	}
	return nil
}

// checkProofs makes and checks proofs out of the tiles alone, as a client does that has seen an earlier checkpoint.
func checkProofs(log reader, tree tlog.Tree, entries [][]byte) error {
	hashes := tlog.TileHashReader(tree, log)
	for _, index := range positions(tree.N) {
		inclusion, err := tlog.ProveRecord(tree.N, index, hashes)
		if err != nil {
			return err
		}
		if err := tlog.CheckRecord(inclusion, tree.N, tree.Hash, index, tlog.RecordHash(entries[index])); err != nil {
			return fmt.Errorf("inclusion of entry %d: %w", index, err)
		}
		older, err := tlog.TreeHash(index+1, hashes)
		if err != nil {
			return err
		}
		consistency, err := tlog.ProveTree(tree.N, index+1, hashes)
		if err != nil {
			return err
		}
		if err := tlog.CheckTree(consistency, tree.N, tree.Hash, index+1, older); err != nil {
			return fmt.Errorf("consistency with size %d: %w", index+1, err)
		}
	}
	return nil
}

func positions(size int64) []int64 {
	found := []int64{0, size - 1}
	for power := int64(1); power < size; power *= 2 {
		found = append(found, power-1, power)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// checkProofFile checks a C2SP tlog-proof file against the entry that the log has at its index.
func checkProofFile(name string, verifier note.Verifier, entries [][]byte) error {
	encoded, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	head, signed, found := bytes.Cut(encoded, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !found || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" || !strings.HasPrefix(lines[1], "index ") {
		return errors.New("it is no tlog-proof file")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
	if err != nil || index < 0 || index >= int64(len(entries)) {
		return errors.New("the proof file is of an entry that the log does not have")
	}
	tree, err := openCheckpoint(signed, verifier)
	if err != nil {
		return err
	}
	var inclusion tlog.RecordProof
	for _, line := range lines[2:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return err
		}
		inclusion = append(inclusion, hash)
	}
	return tlog.CheckRecord(inclusion, tree.N, tree.Hash, index, tlog.RecordHash(entries[index]))
}

// reader reads a log from a directory or over HTTP.
type reader struct {
	source string
	key    string
	client *http.Client
}

func (r reader) read(path string) ([]byte, error) {
	if !strings.HasPrefix(r.source, "http") {
		return os.ReadFile(filepath.Join(r.source, path))
	}
	request, err := http.NewRequest(http.MethodGet, r.source+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	if r.key != "" {
		request.Header.Set("Authorization", "Bearer "+r.key)
	}
	response, err := r.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, response.Status)
	}
	return io.ReadAll(response.Body)
}

// entries reads every entry bundle of a log of exactly this size.
func (r reader) entries(size int64) ([][]byte, error) {
	var entries [][]byte
	for first := int64(0); first < size; first += 1 << height {
		tile := tlog.Tile{H: height, L: -1, N: first >> height, W: int(min(1<<height, size-first))}
		bundle, err := r.read(path(tile))
		if err != nil {
			return nil, err
		}
		before := len(entries)
		for len(bundle) >= 2 {
			length := 2 + int(binary.BigEndian.Uint16(bundle))
			if length > len(bundle) {
				break
			}
			entries = append(entries, bundle[2:length])
			bundle = bundle[length:]
		}
		if len(bundle) != 0 || len(entries)-before != tile.W {
			return nil, fmt.Errorf("%s is not a bundle of %d entries", path(tile), tile.W)
		}
	}
	return entries, nil
}

// Height, SaveTiles and ReadTiles make a reader a tlog.TileReader.
func (r reader) Height() int { return height }

func (r reader) SaveTiles([]tlog.Tile, [][]byte) {}

func (r reader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		read, err := r.read(path(tile))
		if err != nil {
			return nil, err
		}
		data[i] = read
	}
	return data, nil
}

// path spells a tile's path as C2SP tlog-tiles does: x/mod names the height and calls bundles data.
func path(tile tlog.Tile) string {
	spelled := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
	return strings.Replace(spelled, "tile/data/", "tile/entries/", 1)
}
