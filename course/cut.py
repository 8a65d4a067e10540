"""Cutting functions out of a source file, and setting a student's into it."""
import ast
import io
import re
import tokenize

LARGEST = 1 << 20                       # bytes of a submitted file; ours have 30,000
SHAPE = re.compile(r"#\s*(\([^()]*\)(?:, \([^()]*\))*)\s*")      # a comment that is shapes alone
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef
DEFINITIONS = *FUNCTIONS, ast.ClassDef


def parsed(source, name):
    """The syntax tree; a ValueError names the file, and the line where there is one."""
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"{name}, line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:      # a null byte, deep nesting
        raise ValueError(f"{name}: cannot be read as Python ({type(error).__name__})") from None


def find(tree, name):
    """The definition of "function" or "Class.method"; None: there is none. Of several that share a
    name the last counts, as in Python."""
    node = tree
    for part in name.split("."):
        found = [child for child in node.body
                 if isinstance(child, DEFINITIONS) and child.name == part]
        if not found:
            return None
        node = found[-1]
    return node


def span(node):
    """(first line, last line + 1) of a definition with its decorators, counted from 0."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return first - 1, node.end_lineno


# ---- Hand-out: the body goes

def header(lines, node):
    """(lines of a definition from its first decorator to the colon that opens its body, number of
    the last of them). A comment behind that colon stays; a body on the same line does not."""
    depth, text = 0, "\n".join(lines[node.lineno - 1:node.end_lineno]) + "\n"
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.OP and token.string == ":" and depth == 0:
            break
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
    row, column = node.lineno - 1 + token.end[0], token.end[1]
    last = lines[row - 1]
    comment = last[column:] if last[column:].lstrip().startswith("#") else ""
    return [*lines[span(node)[0]:row - 1], last[:column] + comment], row


def shapes(lines, node):
    """What the body's comments say of shapes: a line "name: (B, T, D)" for each of them."""
    told = []
    for statement in ast.walk(node):
        if not isinstance(statement, (ast.Assign, ast.AnnAssign, ast.Return)):
            continue
        for number in range(statement.lineno, statement.end_lineno + 1):
            match = SHAPE.fullmatch("#" + lines[number - 1].rpartition("#")[2]) \
                if "#" in lines[number - 1] else None
            if match:
                targets = getattr(statement, "targets", [getattr(statement, "target", None)])
                name = ", ".join(ast.unparse(target) for target in targets if target) or "returns"
                told.append(((number, statement.lineno), f"{name}: {match[1]}"))
    lines_told = {number: text for (number, _), text in sorted(told)}   # the innermost statement
    return list(dict.fromkeys(lines_told.values()))


def emptied(source, names, word):
    """The source with the bodies of these definitions gone: signature, docstring and the shapes
    stay. word: what the NotImplementedError says that stands there instead. Of a class all methods
    are emptied."""
    lines, cuts = source.rstrip("\n").split("\n"), []
    tree = ast.parse(source)
    for name in names:
        node = find(tree, name)
        if node is None:
            raise ValueError(f"there is no {name}")
        inside = [node] if isinstance(node, FUNCTIONS) else \
            [child for child in node.body if isinstance(child, FUNCTIONS)]
        cuts += [(*span(function), function) for function in inside]
    for first, end, node in sorted(cuts, key=lambda cut: -cut[0]):
        pad = " " * (node.col_offset + 4)
        body, colon = header(lines, node)
        if ast.get_docstring(node) is not None:
            said = node.body[0]
            body += lines[said.lineno - 1:said.end_lineno] if said.lineno > colon else \
                [pad + ast.unparse(said)]
        body += [f"{pad}# {shape}" for shape in shapes(lines, node)]
        body += [f"{pad}raise NotImplementedError({word!r})"]
        lines[first:end] = body
    return "\n".join(lines) + "\n"


def is_empty(node):
    """Whether a body was left as it was handed out."""
    rest = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    return len(rest) == 1 and isinstance(rest[0], ast.Raise) and \
        "NotImplementedError" in ast.unparse(rest[0])


# ---- Grading: the student's body comes in

def bound(node):
    """The names that a statement, or what stands in it, gives a meaning to; none for what only
    does something, and for what may stand at the head of a file alone."""
    if isinstance(node, DEFINITIONS):
        return {node.name}
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return set()
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name for alias in node.names}
    if isinstance(node, ast.comprehension):                 # "for x in y": its x is its own
        return set()
    if isinstance(getattr(node, "ctx", None), ast.Store):
        while isinstance(node, (ast.Subscript, ast.Attribute)):     # x[0].y = 1 is about x
            node = node.value
        if isinstance(node, ast.Name):
            return {node.id}
    return set().union(*map(bound, ast.iter_child_nodes(node)))


def grafted(true, submitted, names, path):
    """The true source with a student's definitions of `names`, and with what else is new in the
    student's file: imports, helpers, constants, methods of the same classes. Nothing that the true
    file has is replaced but `names`.

    Returns (source, [(first line, lines, line in the student's file)] of what came in, from 1).
    Raises ValueError where a definition is missing or cannot be read, or where one statement makes
    something new and gives another meaning to what is ours."""
    ours, theirs = parsed(true, path), parsed(submitted, path)
    lines, student = true.rstrip("\n").split("\n"), submitted.split("\n")
    edits = []                                              # (at, end, first, last) in lines
    known = set().union(*map(bound, ours.body))
    new = [node for node in theirs.body if bound(node) - known]
    imports = [node for node in ast.walk(ours) if isinstance(node, (ast.Import, ast.ImportFrom))]
    kept = known - set().union(*map(bound, imports))        # an import again is what it was
    for node in new:
        if both := bound(node) & kept:
            raise ValueError(f"{path}, line {node.lineno}: {min(both)} has a new meaning beside "
                             "names of your own; write those in a statement of theirs")
    anchor = min((find(ours, name.partition(".")[0]) for name in names), key=lambda n: n.lineno)
    for node in new:
        first = span(node)[0] if isinstance(node, DEFINITIONS) else node.lineno - 1
        edits.append((span(anchor)[0], span(anchor)[0], first, node.end_lineno))
    for name in names:
        node = find(theirs, name)
        if node is None:
            raise ValueError(f"{path}: there is no {name} in it")
        true_node = find(ours, name)
        if node.col_offset != true_node.col_offset:
            raise ValueError(f"{path}: {name} is not indented by {true_node.col_offset} spaces")
        edits.append((*span(true_node), *span(node)))
        if "." in name:
            outer = name.rpartition(".")[0]
            known = set().union(*map(bound, find(ours, outer).body))
            for other in find(theirs, outer).body:
                if bound(other) - known:
                    first = span(other)[0] if isinstance(other, DEFINITIONS) else other.lineno - 1
                    edit = span(true_node)[0], span(true_node)[0], first, other.end_lineno
                    edits += [edit] if edit[2:] not in [e[2:] for e in edits] else []
    out, places, done = [], [], 0
    for at, end, first, last in sorted(edits, key=lambda edit: (edit[0], edit[1], edit[2])):
        out += lines[done:at]
        places.append((len(out) + 1, last - first, first + 1))
        out += student[first:last]
        done = max(done, end)
    heads = [student[node.lineno - 1] for node in theirs.body
             if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    places = [(first + len(heads), length, line) for first, length, line in places]
    return "\n".join(heads + out + lines[done:]) + "\n", places


# ---- Leaks

def telling(text, shortest=36):
    """The lines of source text that are long enough to tell something, without their comments."""
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.split("\n"))
    return {line for line in lines if len(line) >= shortest
            and not line.startswith(("def ", "class ", "import ", "from ", "@"))}


def body(source, name):
    """The text of a definition's body behind its docstring."""
    node = find(ast.parse(source), name)
    first = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return "\n".join(source.split("\n")[first[0].lineno - 1:node.end_lineno]) if first else ""


def removed(source, names):
    """The source without these top-level functions, and without those that use them."""
    tree, lines, gone = ast.parse(source), source.rstrip("\n").split("\n"), set(names)
    functions = [node for node in tree.body if isinstance(node, FUNCTIONS)]
    if missing := gone - {node.name for node in functions}:
        raise ValueError(f"there is no {', '.join(sorted(missing))}")
    while more := {node.name for node in functions if node.name not in gone and gone & {
            name.id if isinstance(name, ast.Name) else name.arg for name in ast.walk(node)
            if isinstance(name, (ast.Name, ast.arg))}}:
        gone |= more
    for node in reversed(functions):
        if node.name in gone:
            first, end = span(node)
            while end < len(lines) and not lines[end].strip():
                end += 1
            del lines[first:end]
    return "\n".join(lines) + "\n"
