# Ruby's sqlite3 as a host: one JSON step a line, one JSON answer a line.
require "json"
require "sqlite3"

$databases = {}

def rows(database, statement) = database.execute(statement).map(&:to_a)

def answer(step)
  what, first, *rest = step
  case what
  when "load"
    loader = SQLite3::Database.new(":memory:")
    loader.enable_load_extension(true)
    loader.load_extension(first)
    loader.close
    []
  when "open" then $databases[first] = SQLite3::Database.new(rest[0]) and []
  when "close" then $databases.delete(first).close and []
  when "sql" then rows($databases[first], rest[0])
  when "interruptible" then trap("INT", "SYSTEM_DEFAULT") and []
  when "opens"
    rest[0].times { database = SQLite3::Database.new(first); rows(database, rest[1]); database.close }
    []
  when "threads"
    Array.new(rest[0]) do
      Thread.new { database = SQLite3::Database.new(first); Array.new(20) { rows(database, rest[1])[0][0] } }
    end.map(&:value)
  else raise what
  end
end

$stdout.sync = true
while (line = gets)
  begin
    said = { rows: answer(JSON.parse(line)) }
  rescue StandardError, Interrupt => error
    said = { error: "#{error.class}: #{error.message}" }
  end
  puts JSON.generate(said)
end
